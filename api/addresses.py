"""Addresses that clients send: none of them is an error, and none leads to another site."""

from urllib.parse import SplitResult, urlsplit

MOST_CHARACTERS = 1000


def split(address: str) -> SplitResult:
    """Return the parts of an address, all of them empty if it can't be taken apart."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def own_path(wanted: str) -> str:
    r"""Return a path of ours to go on to; it is `/` if another site is meant, or nothing sensible.

    Browsers take `///host`, `/\host` and `/<tab>/host` for the address of a host.

    >>> own_path("/opportunities?stage=1"), own_path("///evil.example")
    ('/opportunities?stage=1', '/')
    """
    is_ours = wanted.startswith("/") and not wanted.startswith("//")
    is_plain = "\\" not in wanted and wanted.isprintable() and len(wanted) <= MOST_CHARACTERS
    return wanted if is_ours and is_plain else "/"
