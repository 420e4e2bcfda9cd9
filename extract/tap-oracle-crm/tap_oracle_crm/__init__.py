"""Singer tap for Oracle Fusion CRM."""
