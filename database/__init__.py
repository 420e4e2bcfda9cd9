"""The database, below all else: its address and settings, the embedded server, its migrations."""
