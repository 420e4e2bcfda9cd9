"""The section `decisions`: who decides whether to bid, and how the workflow's states are called."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from declared.model import Declaration, Key, Label

State = Literal[
    "NEW",
    "ASSIGNED",
    "UNDER_ASSESSMENT",
    "PENDING_REVIEW",
    "APPROVED",
    "REJECTED",
    "WON",
    "LOST",
    "CLOSED",
]


class Function(Declaration):
    """Something that people are beside their role, such as practice head.

    Attributes:
        label: as people read it.
        by: the name of the deal's field that routes it to a holder, one that is declared; None:
            each holder is asked for all deals.
    """

    label: Label
    by: Key | None = None

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_label(cls, given: Any) -> Any:
        return {"label": given} if isinstance(given, str) else given


class StateDeclaration(Declaration):
    """How a state is called, and for how many days a deal should have it at most."""

    label: Label | None = None
    days: int | None = Field(default=None, ge=1, le=3650)

    @model_validator(mode="before")
    @classmethod
    def _may_be_empty(cls, given: Any) -> Any:
        return {} if given is None else given


class Decisions(Declaration):
    """The section.

    Attributes:
        require_assessment: only a submitted assessment leads to PENDING_REVIEW, and only its
            decision to APPROVED or REJECTED.
        four_eyes: who submitted an assessment does not decide it.
        functions: what people can be, by key.
        approvals: the functions that all have to approve; empty: one manager decides.
        parts: the parts in which people work on a deal, by key.
        states: labels and limits of states.
    """

    require_assessment: bool = True
    four_eyes: bool = True
    functions: dict[Key, Function] = Field(default={})
    approvals: list[Key] = Field(default=[])
    parts: dict[Key, Label] = Field(default={})
    states: dict[State, StateDeclaration] = Field(default={})

    @field_validator("*", mode="before")
    @classmethod
    def _empty_means_the_default(cls, given: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        return cls.model_fields[name].default if given is None else given

    @field_validator("approvals")
    @classmethod
    def _are_functions(cls, given: list[str], info: ValidationInfo) -> list[str]:
        for name in given:
            if name not in info.data.get("functions", {name}):
                raise ValueError(f"{name!r} is none of the functions: declare it there")
        if len(set(given)) < len(given):
            raise ValueError("a function stands there twice: remove one of them")
        return given

    @property
    def days(self) -> dict[str, int]:
        """By state, for how many days a deal should have it at most."""
        return {name: one.days for name, one in self.states.items() if one.days is not None}

    def label(self, state: str) -> str:
        """Return how people call a state.

        >>> Decisions().label("UNDER_ASSESSMENT")
        'Under assessment'
        """
        declared = self.states.get(state)  # type: ignore[call-overload]
        return (declared and declared.label) or state.replace("_", " ").capitalize()
