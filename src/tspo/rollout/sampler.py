"""What the agent loop asks of whatever samples from the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Finish = Literal["stop", "end", "length"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The policy's tokens of one turn, with the log-probability (natural log) each was sampled with.

    `logprobs` is None where the sampler does not know them: such a turn can be evaluated, not trained on.
    `finish` is "stop" where the policy closed a search or an answer, "end" where it sampled an end token,
    and "length" where it reached the limit.
    """

    token_ids: list[int]
    logprobs: list[float] | None
    text: str
    finish: Finish


class Session(Protocol):
    """One episode's place in the sampler; what it has seen stays in its key-value cache between turns."""

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        """Append tokens from outside, then sample one turn of 1 to `max_tokens` tokens."""
        ...


@runtime_checkable
class StreamingSession(Session, Protocol):
    """A session whose turns can be followed token by token."""

    async def stream(
        self, new_token_ids: list[int], max_tokens: int, on_tokens: Callable[[Sequence[int]], None]
    ) -> Sampled:
        """The same turn as `sample` gives; `on_tokens` sees all its tokens so far after each."""
        ...


class Sampler(Protocol):
    """Samples many sessions side by side."""

    def refresh(self) -> None:
        """Take over the weights of the model it was made from; no session may be open."""
        ...

    def close(self) -> None:
        """Give back what it holds; nothing can be sampled any more."""
        ...

    def session(self, seed: str) -> AbstractAsyncContextManager[Session]:
        """A new session, once there is room for it; equal seeds sample equal texts."""
        ...
