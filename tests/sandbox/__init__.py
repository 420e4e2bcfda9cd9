"""A stand-in for Oracle Fusion CRM."""
