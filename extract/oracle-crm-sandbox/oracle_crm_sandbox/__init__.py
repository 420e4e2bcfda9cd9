"""A stand-in for Oracle Fusion CRM's REST API; the README lists what it serves and obeys.

The command ``oracle-crm-sandbox`` serves one; tests start and command theirs with :class:`Sandbox`.
"""

from .client import CLIENT_ID, CLIENT_SECRET, PASSWORD, SCOPE, USER, Sandbox, SandboxError

__all__ = [
    "CLIENT_ID",
    "CLIENT_SECRET",
    "PASSWORD",
    "SCOPE",
    "USER",
    "Sandbox",
    "SandboxError",
]
