"""Errors, each in one line that a person can act on."""

from __future__ import annotations


class OracleCrmError(Exception):
    """The sync cannot go on. The message is one line, holds no secret and says what to do.

    Attributes:
        problem: what is wrong, in a sentence.
        advice: what to do, in a sentence; empty where `problem` says it.
        cause: what happened, in a few words; the whole message where there are no fewer.
    """

    def __init__(self, problem: str, *, advice: str = "", cause: str | None = None) -> None:
        super().__init__(f"{problem} {advice}" if advice else problem)
        self.problem, self.advice = problem, advice
        self.cause = cause or str(self)


class ConfigError(OracleCrmError):
    """A setting is missing or makes no sense."""


class CredentialsError(OracleCrmError):
    """The identity domain gives the tap no access."""


class TargetError(OracleCrmError):
    """Nobody reads the tap's output any more."""


class RefusedError(OracleCrmError):
    """Oracle answered, and asking again would not help (4xx, a redirect).

    Attributes:
        status: the HTTP status.
        detail: what the server said, one line; empty where it said nothing.
        codes: the error codes that it gave, such as ORA-01555.
        part: the part of the request that was found to be refused, such as `finder`.
        is_this_request: another request may well be served.
    """

    def __init__(
        self,
        problem: str,
        *,
        status: int,
        advice: str = "",
        detail: str = "",
        codes: tuple[str, ...] = (),
        part: str | None = None,
    ) -> None:
        cause = f"HTTP {status}{f': {detail}' if detail else ''}"
        super().__init__(problem, advice=advice, cause=cause)
        self.status = status
        self.detail = detail
        self.codes = codes
        self.part = part
        self.is_this_request = status >= 400 and status != 401


class GaveUpError(OracleCrmError):
    """No usable answer came, however often it was tried.

    Attributes:
        is_this_request: another request may well be answered: the server could be reached and
            does not ask to be left alone.
    """

    def __init__(self, problem: str, *, advice: str, cause: str, is_this_request: bool) -> None:
        super().__init__(problem, advice=advice, cause=cause)
        self.is_this_request = is_this_request


def is_fatal(error: OracleCrmError) -> bool:
    """Tell whether an error must end the run, even if only an optional part failed."""
    is_unauthorized = isinstance(error, RefusedError) and error.status == 401
    return is_unauthorized or isinstance(error, (CredentialsError, TargetError))


class StoppedError(Exception):
    """Reading was told to stop (run-time limit, SIGTERM, another worker failed): no fault."""
