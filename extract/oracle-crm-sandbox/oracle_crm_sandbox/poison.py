"""Poison: broken values in answers, which no reader should load as they are.

A reader can repair some of them (a NUL in a text, a number sent as a string), but not most. With
a :class:`Failure`, each answer fails that would show this attribute of this row, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from .generator import ABSENT

_HUGE = 5_000_000


@dataclass(frozen=True)
class Failure:
    """The error that the CRM answers instead of a page with this value."""

    status: int
    detail: str = ""
    code: str = ""


# The attribute values in answers, by kind; a Raw is sent byte by byte.
KINDS: Mapping[str, Mapping[str, object]] = {
    # repairable
    "nul": {"Name": "Deal\x00with a NUL", "Description": "\x00\x00"},
    "numeric_string": {"Revenue": "12345.67", "WinProb": "55"},
    "empty_string": {"Revenue": "", "EffectiveDate": "", "TargetPartyName": ""},
    # numbers
    "overflow_1e400": {"Revenue": msgspec.Raw(b"1e400")},
    "huge_number": {"Revenue": msgspec.Raw(b"9" * 400)},
    "text_as_number": {"Revenue": "about a million"},
    "negative_prob": {"WinProb": -5},
    "high_prob": {"WinProb": 150},
    # keys
    "missing_id": {"OptyId": ABSENT},
    "null_id": {"OptyId": None},
    "text_id": {"OptyId": "not-a-number"},
    "fraction_id": {"OptyId": 1.5},
    "bigint_overflow_id": {"OptyId": msgspec.Raw(b"99999999999999999999")},
    # dates
    "bad_date": {"EffectiveDate": "31/12/2026"},
    "zero_date": {"EffectiveDate": "0000-00-00"},
    "far_date": {"EffectiveDate": "99999-01-01"},
    "bad_timestamp": {"LastUpdateDate": "yesterday"},
    "null_timestamp": {"LastUpdateDate": None},
    "missing_timestamp": {"LastUpdateDate": ABSENT},
    # texts and types
    "lone_surrogate": {"Name": msgspec.Raw(b'"half an emoji \\ud83d here"')},
    "null_name": {"Name": None},
    "missing_name": {"Name": ABSENT},
    "long_name": {"Name": "N" * 10_000},
    "huge_text": {"Description": "lorem ipsum " * (_HUGE // 12)},
    "wrong_type": {"Name": {"text": "an object"}, "SalesStage": ["a", "list"]},
    "odd_custom": {
        "Practice_c": {"k\x00ey": ["a\x00b", {"deep": None}], "half": msgspec.Raw(b'"\\ud83d"')},
        "Region_c": msgspec.Raw(b"1e400"),
        "Sector_c": ["Banking", msgspec.Raw(b"0.30000000000000000000001"), True],
    },
    "bool_as_text": {"BudgetedFlag": "N", "ChampionFlag": "false"},
    "bool_as_junk": {"BudgetedFlag": "perhaps"},
    # values that cannot be calculated, as by a formula that divides by another attribute
    "error_500": {"Revenue": Failure(500)},
    "divided_by_zero": {
        "WinProb": Failure(
            400,
            "JBO-27122: SQL error during statement preparation. "
            "ORA-01476: divisor is equal to zero",
            "27122",
        )
    },
}


def wire_values(kind: str) -> dict[str, object]:
    """Return the values for answers; raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"no poison {kind}: one of {', '.join(KINDS)}")
    return dict(KINDS[kind])
