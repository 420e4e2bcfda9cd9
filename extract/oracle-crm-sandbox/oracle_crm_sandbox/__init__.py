"""A sandbox of Oracle Fusion CRM's REST API; the README lists its resources and commands.

The command ``oracle-crm-sandbox`` starts one; tests start and control theirs with :class:`Sandbox`.
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
