"""Syncs: start one, follow it, stop it, look back."""
