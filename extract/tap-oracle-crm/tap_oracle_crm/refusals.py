"""Explains refusals and says what to do about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from tap_oracle_crm.answers import (
    RetryError,
    codes_of,
    detail_of,
    is_database_trouble,
    retry_after,
)
from tap_oracle_crm.errors import RefusedError

ALLOW_LIST = (
    "The same answer comes if this machine's address is not on the CRM's list of allowed addresses."
)
SETTING_OF = {
    "finder": "finder",
    "limit": "page_size",
    "REST-Framework-Version": "framework_version",
    "Accept-Language": "accept_language",
}
"""The setting behind each parameter or header."""


def refusal(
    response: requests.Response, body: bytes, path: str, settings: Mapping[str, Any]
) -> RefusedError | RetryError:
    """Return the error for an answer whose status is not 200.

    Args:
        response: the answer.
        body: its whole body.
        path: the requested resource.
        settings: the tap's settings.
    """
    host = urlsplit(settings["base_url"]).netloc
    status = response.status_code
    detail = detail_of(response, body)
    said = f": {detail}" if detail else ""
    passes = status == 400 and is_database_trouble(body)
    if passes or status in {408, 425, 429} or status >= 500:
        return RetryError(
            f"HTTP {status}{said}",
            after=retry_after(response),
            throttled=status in {429, 503},
            slow=status in {408, 502, 504},
            about_rows=status in {400, 500},
        )
    if 300 <= status < 400:
        target = _host(response.headers.get("Location", "")) or "another page"
        problem = (
            f"{host} sent a redirect ({status}) to {target}, most likely a login page; "
            "it was not followed."
        )
        advice = "Check ORACLE_BASE_URL, and that the account may use the REST API."
    elif status == 401 and "token_url" in settings:
        problem = f"Oracle refused the access token (401{said})."
        advice = f"Check ORACLE_SCOPE, and that the client is mapped to a Fusion user. {ALLOW_LIST}"
    elif status == 401:
        problem = "Oracle refused the user name or password (401)."
        advice = (
            "Check ORACLE_USER and ORACLE_PASS; there was no retry, since wrong passwords lock "
            f"accounts. {ALLOW_LIST}"
        )
    elif status == 403:
        problem = f"Oracle knows the user but does not let it read {path} (403{said})."
        advice = (
            "Ask the CRM's administrator for a role that may view it through the REST API. "
            f"{ALLOW_LIST}"
        )
    elif status == 404:
        problem = (
            f"{host} has no {path} in version {settings['api_version']} of its CRM API (404{said})."
        )
        advice = "Check ORACLE_BASE_URL and the setting api_version."
    elif status == 400:
        problem = f"Oracle refused the query of {path} (400{said or ', without a word'})."
        advice = _remedy_for(detail)
    else:
        problem = f"{host} refused to serve {path} (HTTP {status}{said})."
        advice = _remedy_for(detail)
    return RefusedError(problem, advice=advice, status=status, detail=detail, codes=codes_of(body))


def _remedy_for(detail: str) -> str:
    """Name the setting to correct, found by the parameter or header in the error message."""
    words = set(re.findall(r"[\w-]+", detail.lower()))
    named = [setting for word, setting in SETTING_OF.items() if word.lower() in words]
    if named:
        return f"Correct the setting {' or '.join(dict.fromkeys(named))}."
    return "Run tap-oracle-crm-probe: it tries each part of a request and says which settings work."


def refusal_of_part(part: str, value: str, path: str, error: RefusedError) -> RefusedError:
    """Return the error for a refused part that cannot be left out."""
    begin = f"Oracle serves {path} without {part}, and refuses it with {part}={value}"
    advice = {
        "finder": "The finder decides which records are seen, so the tap does not leave it out. "
        "Set finder to one that this CRM has, or to none for the account's default records.",
        "orderBy": "No setting helps: ask the administrator of the CRM or of the proxy before it.",
    }.get(part, _remedy_for(error.detail))
    return RefusedError(
        f"{begin} ({error.cause}).",
        advice=advice,
        status=error.status,
        detail=error.detail,
        codes=error.codes,
        part=part,
    )


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
