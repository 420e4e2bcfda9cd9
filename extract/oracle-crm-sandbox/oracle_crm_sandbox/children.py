"""Invented child rows of an opportunity: the same, however late they are first read."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

Record = dict[str, object]


def _common(parent: Record) -> Record:
    names = ("OptyId", "CreationDate", "LastUpdateDate", "CreatedBy", "LastUpdatedBy")
    return {name: parent[name] for name in names}


def revenue_lines(parent: Record) -> list[Record]:
    """Make one to three rows of ``ChildRevenue`` that share the opportunity's revenue."""
    key, total = int(str(parent["OptyId"])), parent["Revenue"]
    rng = Random(key)
    lines = rng.randrange(1, 4)
    share = round(total / lines, 2) if isinstance(total, int | float) else None
    return [
        _common(parent)
        | {
            "RevnId": key * 10 + line,
            "RevnNumber": f"RL_{key * 10 + line}",
            "RevnSequenceNumber": line + 1,
            "Description": rng.choice(("Licences", "Services <i>T&M</i>", "دعم فني", None)),
            "RevnAmount": share,
            "RevnAmountCurcyCode": parent["CurrencyCode"],
            "WinProb": parent["WinProb"],
            "Quantity": rng.randrange(1, 50),
            "StatusCode": parent["StatusCode"],
            "ProdGroupName": rng.choice(("Cloud", "Advisory", "Support")),
            "PrimaryFlag": line == 0,
            "EffectiveDate": parent["EffectiveDate"],
            "ActualCloseDate": None,
        }
        for line in range(lines)
    ]


def team_members(parent: Record, people: Sequence[Record]) -> list[Record]:
    """Make one to three rows of ``OpportunityResource`` of ``people``, rows of ``resources``."""
    key = int(str(parent["OptyId"]))
    rng = Random(key + 1)
    members = rng.sample(people, min(len(people), rng.randrange(1, 4)))
    return [
        _common(parent)
        | {
            "OptyResourceId": key * 10 + 5 + index,
            "ResourceId": person["PartyId"],
            "PartyName": person["PartyName"],
            "EmailAddress": person["EmailAddress"],
            "MemberFunctionCode": rng.choice(("INTEGRATOR", "EXEC_SPONSOR", None)),
            "AccessLevelCode": rng.choice(("100", "200", "300")),
            "OwnerFlag": index == 0,
        }
        for index, person in enumerate(members)
    ]
