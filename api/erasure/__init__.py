"""Erase the personal data of one person."""
