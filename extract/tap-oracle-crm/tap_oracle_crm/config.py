"""Reads and checks the settings that Meltano, a config file or the environment passes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tap_oracle_crm.conditions import check_filter, check_finder
from tap_oracle_crm.errors import ConfigError
from tap_oracle_crm.settings import ENVIRONMENT, SCHEMAS

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings: empty strings dropped, the environment and defaults filled in.

    Raises:
        ConfigError: a setting is missing or invalid; the text names it but never shows its value.
    """
    settings = {name: value for name, value in config.items() if value not in (None, "")}
    for name, variable in ENVIRONMENT.items():
        if name not in settings and os.environ.get(variable):
            settings[name] = os.environ[variable]
    for name, schema in SCHEMAS.items():
        value = settings.get(name, schema.get("default"))
        if value is not None or "array" in schema["type"]:
            settings[name] = _converted(name, value, schema)
    check_finder(settings["finder"], settings["fixed_attributes"])
    if "filter" in settings:
        check_filter(
            settings["filter"], settings["framework_version"], settings["fixed_attributes"]
        )
    if "ca_bundle" in settings and not Path(settings["ca_bundle"]).exists():
        raise ConfigError(f"ca_bundle: there is no file {settings['ca_bundle']}.")
    settings["base_url"] = _base_url(settings)
    _check_credentials(settings)
    return settings


def check_environment() -> None:
    """Check the numbers in the environment, which the SDK does not check; empty means unset.

    Raises:
        ConfigError: a value is not a number, or it is too small or too large.
    """
    for name, schema in SCHEMAS.items():
        variable = f"TAP_ORACLE_CRM_{name.upper()}"
        if "integer" in schema["type"] and variable in os.environ:
            if os.environ[variable]:
                _integer(name, os.environ[variable], schema)
            else:
                del os.environ[variable]


def _converted(name: str, value: Any, schema: Mapping[str, Any]) -> Any:
    """Return the value of a setting in the type of its schema."""
    if "array" in schema["type"]:
        return _names(name, value or [])
    if "integer" in schema["type"]:
        return _integer(name, value, schema)
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{name} must be one text.")
    text = str(value)  # a numeric password is a password too
    if "boolean" in schema["type"]:
        if text.lower() not in BOOLEANS:
            raise ConfigError(f"{name} must be true or false.")
        return BOOLEANS[text.lower()]
    if schema.get("format") == "date-time":
        try:
            datetime.fromisoformat(text)
        except ValueError:
            msg = f"{name} is not a date or time such as 2026-01-31T00:00:00Z."
            raise ConfigError(msg) from None
    return text


def _integer(name: str, value: object, schema: Mapping[str, Any]) -> int:
    smallest, largest = schema["minimum"], schema["maximum"]
    try:
        number = int(str(value))
    except ValueError:
        number = smallest - 1
    if not smallest <= number <= largest:
        msg = f"{name} must be a whole number from {smallest} to {largest}."
        raise ConfigError(msg)
    return number


def _names(setting: str, value: object) -> list[str]:
    parts = value.strip("[] ").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        msg = f"{setting} must be a list of attribute names, or the names with commas between."
        raise ConfigError(msg)
    return [name for part in parts if (name := str(part).strip(" \"'"))]


def _base_url(settings: Mapping[str, Any]) -> str:
    if "base_url" not in settings:
        msg = (
            "base_url is not set: set ORACLE_BASE_URL to the address of your Oracle Fusion pod, "
            "for example https://crm.example.com."
        )
        raise ConfigError(msg)
    # People paste the address of the whole API: the tap adds the path itself.
    url = str(settings["base_url"]).strip().split("/crmRestApi")[0].rstrip("/")
    check_address("base_url (ORACLE_BASE_URL)", url, allow_http=settings["allow_http"])
    return url


def check_address(what: str, url: str, *, allow_http: bool) -> None:
    """Refuse an address that contains credentials or would send them unencrypted.

    Raises:
        ConfigError: the address is not https, or contains a user name.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in {"https", "http"}:
        msg = f"{what} is not an address such as https://crm.example.com."
        raise ConfigError(msg)
    if parts.username or parts.password:
        msg = f"{what} must not hold a user name or password: use ORACLE_USER and ORACLE_PASS."
        raise ConfigError(msg)
    if parts.scheme == "http" and host not in LOOPBACK and not allow_http:
        msg = (
            f"{what} is plain http, which would send the password unencrypted: use https, or set "
            "allow_http to true if you accept that."
        )
        raise ConfigError(msg)


def _check_credentials(settings: Mapping[str, Any]) -> None:
    if "token_url" in settings:
        check_address(
            "token_url (ORACLE_TOKEN_URL)",
            settings["token_url"],
            allow_http=settings["allow_http"],
        )
        needed = ["client_id", "client_secret"]
    elif "client_id" in settings or "client_secret" in settings:
        needed = ["token_url", "client_id", "client_secret"]
    else:
        needed = ["username", "password"]
    missing = [name for name in needed if name not in settings]
    if missing:
        names = " and ".join(f"{name} ({ENVIRONMENT[name]})" for name in missing)
        other = (
            "; or, for OAuth, ORACLE_TOKEN_URL, ORACLE_CLIENT_ID and ORACLE_CLIENT_SECRET"
            if needed[0] == "username"
            else ""
        )
        msg = f"No credentials for Oracle: set {names}{other}."
        raise ConfigError(msg)
