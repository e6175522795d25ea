"""The one exception that a user is meant to read."""

from __future__ import annotations


class BadInput(Exception):
    """Input that the user can mend: one line saying what is wrong, where, and what to do (exit code 2)."""
