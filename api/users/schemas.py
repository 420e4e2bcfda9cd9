"""Requests and answers of the endpoints of users, sessions and tokens."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictBool, model_validator
from pydantic.json_schema import SkipJsonSchema

from api.auth import MOST_DAYS, Role, Scope
from api.types import Input, Secret, Text
from api.users.names import refuse_look_alikes, unify
from declared.model import Key

Name = Annotated[
    str,
    BeforeValidator(lambda given: unify(given) if isinstance(given, str) else given),
    AfterValidator(refuse_look_alikes),
    Field(
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x20\x7f-\x9f]+$",
        description="What one signs in with: no spaces; large and small letters are the same",
        examples=["ada"],
    ),
]
NewPassword = Annotated[Secret, Field(min_length=12, max_length=200)]
Password = Annotated[Secret, Field(max_length=200)]
Email = Annotated[str, Field(max_length=200, pattern=r"^[^@\s\x00]+@[^@\s\x00]+$")]


class UserAnswer(BaseModel):
    """A user."""

    id: int
    name: str = Field(examples=["ada"])
    full_name: str | None = Field(examples=["Ada Example"])
    email: str | None = Field(examples=["ada@example.com"])
    role: Role
    active: bool
    is_service: bool = Field(description="It holds tokens, and never has a password")
    last_signed_in_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewUser(Input):
    """A user to be made."""

    name: Name
    full_name: Text | None = None
    email: Email | None = None
    role: Role
    is_service: StrictBool = Field(False, description="It holds tokens, and has no password")
    password: NewPassword | None = None

    @model_validator(mode="after")
    def _is_a_person_with_a_password(self) -> Self:
        if self.is_service and self.password is not None:
            raise ValueError("a service has no password")
        return self


class UserChange(Input):
    """The changes of a user; a field that is missing stays as it is."""

    full_name: Text | None = None
    email: Email | None = None
    role: Role | SkipJsonSchema[None] = None
    active: StrictBool | SkipJsonSchema[None] = None
    password: NewPassword | SkipJsonSchema[None] = None

    @model_validator(mode="after")
    def _clears_no_more_than_it_can(self) -> Self:
        for name in ("role", "active", "password"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} can't be null")
        return self


class HeldFunction(Input):
    """A function that a user has beside the role, such as practice head of "Cloud"."""

    function: Key = Field(examples=["practice_head"])
    value: Text | None = Field(
        None,
        description="Of the field that routes deals to its holders; null: all deals",
        examples=["Cloud"],
    )


MOST_FUNCTIONS = 200
HeldFunctions = Annotated[list[HeldFunction], Field(max_length=MOST_FUNCTIONS)]


class SignIn(Input):
    """A name and its password."""

    name: Annotated[str, Field(max_length=100, pattern="^[^\x00]*$", examples=["ada"])]
    password: Password


class Session(BaseModel):
    """A session: the token is in the cookie too."""

    token: str = Field(description="For `Authorization: Bearer`")
    expires_at: datetime = Field(description="Moves on while the session is used")
    failed_attempts: int = Field(description="Sign-ins with the name that failed since the last")
    user: UserAnswer


class PasswordChange(Input):
    """A new password, and the present one."""

    present: Password
    new: NewPassword


class PasswordByLink(Input):
    """A new password, and the secret of the link that an admin made."""

    secret: Annotated[Secret, Field(min_length=1, max_length=100)] = Field(
        description="What stands in the link after the #"
    )
    new: NewPassword


class PasswordLinkAnswer(BaseModel):
    """A link that was just made."""

    link: str = Field(
        description="Shown this once",
        examples=["https://crm.example.com/set-password#X9qT2mJ0b0cVw"],
    )
    expires_at: datetime


class NewToken(Input):
    """A personal API token to be made."""

    name: Text = Field(description="What it is for", examples=["nightly report"])
    days: int = Field(90, ge=1, le=MOST_DAYS, description="How long it is good for")
    scopes: list[Scope] = Field(
        [Scope.READ],
        max_length=len(Scope),
        description="What it is good for, as far as the role of its owner goes; reading always",
    )
    password: Password | None = Field(
        None, description="One's own, needed if one signed in more than 10 minutes ago"
    )


class TokenAnswer(BaseModel):
    """A personal API token; the token itself is not kept."""

    id: int
    user_id: int
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = Field(description="To the minute")
    address: str | None = Field(description="Where it was last used from")
    revoked_at: datetime | None


class IssuedToken(TokenAnswer):
    """A personal API token that was just made."""

    token: str = Field(description="Shown this once")


class SessionAnswer(BaseModel):
    """A session that is under way."""

    id: int
    user_id: int
    created_at: datetime
    last_used_at: datetime | None = Field(description="To the minute")
    expires_at: datetime
    address: str | None = Field(description="Where it was last used from")
    browser: str | None = Field(description="As it called itself at the sign-in (User-Agent)")
    token_name: str | None = Field(description="The API token that it was begun with, if any")
    is_current: bool = Field(description="Whether it is the one that asks")
