"""Make the people of the bid desk, and give them their functions.

Needs TOKEN, an admin's, and API_URL if that is not http://127.0.0.1:8000. A second call gives the
functions again to whom it finds. In the console, an admin makes a link for each, with which the
person sets a password.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

API_URL = os.environ.get("API_URL", "http://127.0.0.1:8000").rstrip("/")
# Name, full name, role, and the functions with the value of the field that routes deals to them.
PEOPLE: list[tuple[str, str, str, list[tuple[str, str | None]]]] = [
    ("ada", "Ada Bellweather", "assessor", []),
    ("yusuf", "Yusuf Alkhatib", "assessor", []),
    ("carla", "Carla Montefalco", "viewer", [("practice_head", "Cloud")]),
    ("dagny", "Dagny Solheim", "viewer", [("practice_head", "Data & AI")]),
    ("hugo", "Hugo Falkner", "manager", [("practice_head", None)]),
    ("emil", "Emil Quiroga", "viewer", [("sales_head", "EMEA")]),
    ("fumiko", "Fumiko Arisawa", "viewer", [("sales_head", None)]),
    ("mira", "Mira Kowalchik", "manager", [("management", None)]),
    ("lena", "Lena Aasheim", "viewer", [("legal", None)]),
]


def call(method: str, path: str, body: Any = None) -> Any:
    """Call the API, and return its answer."""
    request = urllib.request.Request(  # noqa: S310 - the address is the caller's
        API_URL + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {json.load(error)['detail']}")


def main() -> None:
    """Make who is missing, and set the functions of all."""
    if "TOKEN" not in os.environ:
        sys.exit("Set TOKEN to an admin's token: make token ROLE=admin")
    known = {user["name"]: user["id"] for user in call("GET", "/api/users")}
    for name, full_name, role, functions in PEOPLE:
        if name not in known:
            new = {"name": name, "full_name": full_name, "role": role}
            known[name] = call("POST", "/api/users", new)["id"]
            print(f"Made {name}.")
        held = [{"function": function, "value": value} for function, value in functions]
        call("PUT", f"/api/users/{known[name]}/functions", held)
    print(f"{len(PEOPLE)} people have their functions.")


if __name__ == "__main__":
    main()
