"""Errors; each message is one line that says what to do."""

from __future__ import annotations


class OracleCrmError(Exception):
    """The sync cannot go on. The message is one line, holds no secret and says what to do.

    Attributes:
        problem: what is wrong, in a sentence.
        advice: what to do, in a sentence; empty if `problem` says it.
        cause: what happened, in a few words; by default the whole message.
    """

    def __init__(self, problem: str, *, advice: str = "", cause: str | None = None) -> None:
        super().__init__(f"{problem} {advice}" if advice else problem)
        self.problem, self.advice = problem, advice
        self.cause = cause or str(self)


class ConfigError(OracleCrmError):
    """A setting is missing or invalid."""


class CredentialsError(OracleCrmError):
    """The identity domain gives the tap no access."""


class TargetError(OracleCrmError):
    """The target no longer reads the tap's output."""


class RefusedError(OracleCrmError):
    """Oracle answered with an error, and a retry would not help (4xx, a redirect).

    Attributes:
        status: the HTTP status.
        detail: the server's error message, one line; may be empty.
        codes: the server's error codes, such as ORA-01555.
        part: the refused part of the request, such as `finder`, if it is known.
        is_this_request: another request may succeed.
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
    """No usable answer came after all retries.

    Attributes:
        is_this_request: another request may succeed: the server can be reached and does not ask
            to wait.
        about_rows: the server's error, if one of the rows asked for may be the reason.
    """

    def __init__(
        self,
        problem: str,
        *,
        advice: str,
        cause: str,
        is_this_request: bool,
        about_rows: str | None = None,
    ) -> None:
        super().__init__(problem, advice=advice, cause=cause)
        self.is_this_request = is_this_request
        self.about_rows = about_rows


def is_fatal(error: OracleCrmError) -> bool:
    """Tell whether an error must end the run, even if only an optional part failed."""
    is_unauthorized = isinstance(error, RefusedError) and error.status == 401
    return is_unauthorized or isinstance(error, (CredentialsError, TargetError))


class StoppedError(Exception):
    """Reading was told to stop (run-time limit, SIGTERM, another worker failed): not an error."""
