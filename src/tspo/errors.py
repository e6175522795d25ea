"""The exceptions that a user is meant to read."""

from __future__ import annotations


class BadInput(Exception):
    """Input that the user can mend: one line saying what is wrong, where, and what to do (exit code 2)."""


class NotFinite(BadInput):
    """A model that computes a nan or an infinity: nothing that comes of it is to be written or learned from."""
