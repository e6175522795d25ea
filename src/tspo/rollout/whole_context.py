"""Sessions for engines that keep no session: every turn is asked for with all that came before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from tspo.background_loop import BackgroundLoop
from tspo.rollout.codec import Codec
from tspo.rollout.room import Room
from tspo.rollout.sampler import Sampled, SamplingOptions
from tspo.rollout.turns import turn_seed

Context = Sequence[list[int]]
"""Token ids of all that came before: what came from outside, what the policy sampled, and so on in turns."""

Ask = Callable[[Context, int, int], Awaitable[Sampled]]
"""Called with the context, the most tokens of the turn, and its seed."""


def flat(context: Context) -> list[int]:
    """The context as one sequence of token ids."""
    return [token for piece in context for token in piece]


class WholeContext:
    """A `Session` that remembers its tokens; the engine's prefix cache, if it has one, spares their computation."""

    def __init__(self, seed: str, capacity: int, ask: Ask) -> None:
        self._seed = seed
        self._capacity = capacity
        self._ask = ask
        self._context: list[list[int]] = []

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        """See `Session`."""
        self._context.append(new_token_ids)
        tokens = sum(map(len, self._context))
        if max_tokens < 1 or tokens + max_tokens > self._capacity:
            raise ValueError(f"{tokens} + {max_tokens} tokens do not fit in {self._capacity}")
        turn = len(self._context) // 2
        sampled = await self._ask(self._context, max_tokens, turn_seed(self._seed, turn))
        self._context.append(sampled.token_ids)
        return sampled


class WholeContextSampler(ABC):
    """What samplers on such engines share: places for sessions, and an event loop that the engine's client lives in."""

    def __init__(self, codec: Codec, *, rows: int, capacity: int, sampling: SamplingOptions, name: str) -> None:
        self.codec = codec
        self.sampling = sampling
        self._capacity = capacity
        self._room = Room(rows)
        self._loop = BackgroundLoop(name)

    @asynccontextmanager
    async def session(self, seed: str) -> AsyncIterator[WholeContext]:
        """See `Sampler`; a session that waits for a search takes nothing but its place."""
        async with self._room.place():
            yield WholeContext(seed, self._capacity, self._ask)

    async def _ask(self, context: Context, max_tokens: int, seed: int) -> Sampled:
        return await self._loop.run(self._turn(context, max_tokens, seed))

    @abstractmethod
    async def _turn(self, context: Context, max_tokens: int, seed: int) -> Sampled:
        """One turn of at most `max_tokens` tokens after `context`; runs in the background loop."""
