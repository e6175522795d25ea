"""Continuous batching over episodes on a transformers model.

What a session has read is a row of a key-value cache that lives as long as its episode: after a search only the new
tokens are prefilled, rows that end make room for waiting ones, and one forward pass a step serves them all. Sessions
that have read the same (a group, until its members differ) share a row and are computed once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from transformers import PreTrainedModel

from tspo.rollout.codec import Codec
from tspo.rollout.draw import check_finite, distribution, draw
from tspo.rollout.kv_cache import Piece, RowCache, cache_argument
from tspo.rollout.packed_linear import PackedLinear, pack_linears, packing_pays
from tspo.rollout.room import Room
from tspo.rollout.sampler import FULL, Sampled, SamplingOptions
from tspo.rollout.sampling_model import check_sampling_model, sampling_model
from tspo.rollout.turns import turn_end

_PASS_TOKENS = 1024
"""Tokens of one pass; bounds the memory that a burst of prompts takes. On a CPU, longer passes are no faster."""


@dataclass(slots=True, eq=False)
class _Row:
    """A row of the cache, and who reads it: each its first tokens, as many as it has read."""

    index: int
    readers: list[_Reader] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Reader:
    """A session: it has read the first `length` tokens of its row, and not yet those that are `unseen`."""

    random: random.Random
    row: _Row | None = None
    length: int = 0
    unseen: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    max_tokens: int = 0
    turn: asyncio.Future[Sampled] | None = None
    on_tokens: Callable[[Sequence[int]], None] | None = None


class TransformersSampler:
    """A `Sampler` on one device.

    `rows` sessions at most are open at once, each of at most `capacity` tokens. With a `dtype` other than the model's,
    it samples from a copy that `refresh` brings up to date.
    Raises BadInput for a model that it would not sample as transformers does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        *,
        rows: int,
        capacity: int,
        sampling: SamplingOptions = FULL,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.codec = codec
        self.sampling = sampling
        self._capacity = capacity
        self._source = model
        self._model = sampling_model(model, dtype)
        check_sampling_model(self._model)
        self._is_copy = self._model.dtype != model.dtype
        self._cache_argument = cache_argument(self._model)
        self._packed: list[PackedLinear] = []
        if self._is_copy and packing_pays(self._model):
            self._packed = pack_linears(self._model)
        self._cache = RowCache(rows, capacity)
        self._rows: list[_Row] = []
        self._readers: list[_Reader] = []
        self._room = Room(rows)
        self._engine: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Take over the weights of the model it was made from."""
        if self._is_copy:
            with torch.no_grad():
                for mine, theirs in zip(self._model.parameters(), self._source.parameters(), strict=True):
                    mine.copy_(theirs)
            for layer in self._packed:
                layer.pack()

    def close(self) -> None:
        """See `Sampler`: lets go of the key-value cache."""
        self._cache = RowCache(0, 0)

    @asynccontextmanager
    async def session(self, seed: str) -> AsyncIterator[_Session]:
        """See `Sampler`; all sessions of a sampler belong to one event loop at a time."""
        async with self._room.place():
            reader = _Reader(random.Random(seed))
            self._readers.append(reader)
            try:
                yield _Session(self, reader)
            finally:
                self._readers.remove(reader)
                self._leave(reader)

    def start_turn(self, reader: _Reader, new_token_ids: list[int], max_tokens: int) -> asyncio.Future[Sampled]:
        """Queue one turn of `reader`; the future holds it once it is sampled."""
        reader.unseen += new_token_ids
        reader.token_ids, reader.logprobs, reader.max_tokens = [], [], max_tokens
        tokens = reader.length + len(reader.unseen)
        if max_tokens < 1 or tokens + max_tokens > self._capacity:
            raise ValueError(f"{tokens} + {max_tokens} tokens do not fit in {self._capacity}")
        reader.turn = asyncio.get_running_loop().create_future()
        if self._engine is None or self._engine.done():
            self._engine = asyncio.get_running_loop().create_task(self._run())
        return reader.turn

    async def _run(self) -> None:
        """Step until no reader has a turn under way; every step lets the episodes move."""
        try:
            # a turn whose episode was cancelled is done before its reader is gone
            while working := [one for one in self._readers if one.turn is not None and not one.turn.done()]:
                self._step(working)
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error)  # the episodes raise it
        except BaseException:
            self._fail(asyncio.CancelledError())
            raise

    def _fail(self, error: BaseException) -> None:
        for reader in self._readers:
            if reader.turn is not None and not reader.turn.done():
                reader.turn.set_exception(error)
            reader.turn = None

    @torch.inference_mode()
    def _step(self, working: list[_Reader]) -> None:
        """Bring readers up to date and sample their next token: single tokens and new prompts in one pass."""
        alike: dict[tuple[_Row | None, int, tuple[int, ...]], list[_Reader]] = {}
        for reader in working:
            alike.setdefault((reader.row, reader.length, tuple(reader.unseen)), []).append(reader)
        batch: list[list[_Reader]] = []
        room = _PASS_TOKENS
        for readers in sorted(alike.values(), key=lambda readers: len(readers[0].unseen)):
            count = len(readers[0].unseen)
            if not batch or count <= room:
                batch.append(readers)
                room -= count
        taken: set[_Row] = set()
        for readers in batch:
            taken.add(self._row_to_write(readers, taken))
        # neighbours in the cache are read together
        batch.sort(key=_index_of)
        self._sample(batch, self._forward(batch))

    def _row_to_write(self, readers: list[_Reader], taken: set[_Row]) -> _Row:
        """Give readers that have read the same a row that holds no more; one of `taken` is about to."""
        row, length = readers[0].row, readers[0].length
        if row is not None and row not in taken and all(other.length <= length for other in row.readers):
            return row
        new = _Row(index=len(self._rows))
        self._rows.append(new)
        if row is not None:
            self._cache.copy_row(row.index, new.index, length)
        for reader in readers:
            self._leave(reader)
            reader.row = new
            new.readers.append(reader)
        return new

    def _leave(self, reader: _Reader) -> None:
        """Take a reader from its row; a row that nobody reads is given up, and the last one takes its place."""
        row = reader.row
        if row is None:
            return
        reader.row = None
        row.readers.remove(reader)
        if row.readers:
            return
        last = self._rows.pop()
        if last is not row:
            self._cache.copy_row(last.index, row.index, max(other.length for other in last.readers))
            self._rows[row.index] = last
        self._cache.clear_row(last.index)
        last.index = row.index

    def _forward(self, batch: list[list[_Reader]]) -> torch.Tensor:
        """One pass over what is unseen, without padding: the logits (readings, vocabulary) after it."""
        device = self._model.device
        pieces: list[Piece] = []
        tokens: list[int] = []
        for alike in batch:
            reader = alike[0]
            pieces.append(Piece(_index_of(alike), reader.length, len(reader.unseen)))
            tokens += reader.unseen
        ends = list(accumulate(piece.new for piece in pieces))
        positions = self._cache.place(pieces, device)
        # the precision is the sampler's own, whatever the caller computes in
        with torch.autocast(device.type, enabled=False):
            output = self._model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=positions,
                use_cache=True,
                logits_to_keep=torch.tensor(ends, device=device) - 1,
                **{self._cache_argument: self._cache},
            )
        self._cache.passed()
        for readers, piece in zip(batch, pieces, strict=True):
            for reader in readers:
                reader.length, reader.unseen = piece.end, []
        return output.logits[0].float()

    def _sample(self, batch: list[list[_Reader]], logits: torch.Tensor) -> None:
        """Sample one token a reader, each from its own random numbers, and end the turns that are over."""
        readers = [reader for alike in batch for reader in alike]
        of = [i for i, alike in enumerate(batch) for _ in alike]
        if self.sampling.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            logprobs = (logits.gather(1, best) - logits.logsumexp(-1, keepdim=True))[of]
            check_finite(logprobs)
            tokens = best[of]
        else:
            probabilities = distribution(logits, self.sampling)
            uniform = torch.tensor([[reader.random.random()] for reader in readers], device=logits.device)
            which = torch.tensor(of, device=logits.device)
            tokens = draw(probabilities, uniform, which)
            logprobs = probabilities[which, tokens[:, 0]].log()[:, None]
        for reader, token, logprob in zip(readers, tokens[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True):
            reader.token_ids.append(token)
            reader.logprobs.append(logprob)
            reader.unseen = [token]
            if reader.on_tokens is not None:
                reader.on_tokens(reader.token_ids)
            if finish := turn_end(reader.token_ids, reader.max_tokens, self.codec):
                assert reader.turn is not None
                text = self.codec.decode(reader.token_ids)
                reader.turn.set_result(Sampled(reader.token_ids, reader.logprobs, text, finish))
                reader.turn = None


@dataclass(frozen=True, slots=True)
class _Session:
    sampler: TransformersSampler
    reader: _Reader

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        """See `Session`."""
        return await self.sampler.start_turn(self.reader, new_token_ids, max_tokens)

    async def stream(
        self, new_token_ids: list[int], max_tokens: int, on_tokens: Callable[[Sequence[int]], None]
    ) -> Sampled:
        """See `StreamingSession`."""
        self.reader.on_tokens = on_tokens
        try:
            return await self.sample(new_token_ids, max_tokens)
        finally:
            self.reader.on_tokens = None


def _index_of(alike: list[_Reader]) -> int:
    """The row of readers that have one."""
    row = alike[0].row
    assert row is not None
    return row.index
