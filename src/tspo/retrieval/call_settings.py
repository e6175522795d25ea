"""How patient a client of a service is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallSettings:
    """Deadlines, retries and limits of a client's calls; times in seconds."""

    deadline: float = 120.0
    """For one call, retries and all; then its queries have no answer."""
    attempt: float = 60.0
    """For one attempt of a call."""
    give_up_after: float = 300.0
    """Of calls under way without one that succeeds; then nothing is asked any more."""
    connections: int = 8
    """Calls under way at one time; others wait for their turn, and the deadline with them."""
    first_delay: float = 0.25
    """Before the first retry, twice as long before each further one, shortened at random by up to a half."""
    longest_delay: float = 15.0
    reply_bytes: int = 256 * 2**20
    """A reply is not read further than this."""
