"""Continuous batching over episodes on a transformers model.

Each session is one row of a key-value cache that lives as long as its episode: after a search only the new
tokens are prefilled, rows that end make room for waiting ones, and one forward pass a step serves them all.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.kv_cache import RowCache
from tspo.rollout.room import Room
from tspo.rollout.sampler import Sampled
from tspo.rollout.turns import turn_end

_PREFILL_TOKENS = 4096
"""Tokens, padding included, of one prefill pass; bounds the memory that a burst of prompts takes."""


@dataclass(slots=True, eq=False)
class _Row:
    """A session's row: `length` tokens are in the cache, `unseen` are not yet."""

    index: int
    random: random.Random
    length: int = 0
    unseen: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    max_tokens: int = 0
    turn: asyncio.Future[Sampled] | None = None


class TransformersSampler:
    """A `Sampler` on one device.

    `rows` sessions at most are open at once, each of at most `capacity` tokens. `temperature` 0 is greedy.
    With a `dtype` other than the model's, it samples from a copy that `refresh` brings up to date.
    Raises BadInput for a model whose layers do not all attend to the whole sequence, and for one whose
    attention takes no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        *,
        rows: int,
        capacity: int,
        temperature: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        if partial := _partial_attention(model, capacity):
            raise BadInput(
                f"model: the transformers sampler needs full attention in every layer, this model has "
                f"{', '.join(sorted(partial))}; choose another model"
            )
        attention = model.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise BadInput(f"model: the transformers sampler needs attention by sdpa or eager, not {attention}")
        self.codec = codec
        self.temperature = temperature
        self._capacity = capacity
        self._source = model
        self._model = model if dtype in (None, model.dtype) else _copy_as(model, dtype)
        self._adds_mask = attention == "eager"
        self._cache = RowCache(rows, capacity)
        self._rows: list[_Row] = []
        self._room = Room(rows)
        self._engine: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Take over the weights of the model it was made from."""
        if self._model is not self._source:
            with torch.no_grad():
                for mine, theirs in zip(self._model.parameters(), self._source.parameters(), strict=True):
                    mine.copy_(theirs)

    def close(self) -> None:
        """See `Sampler`: lets go of the key-value cache."""
        self._cache = RowCache(0, 0)

    @asynccontextmanager
    async def session(self, seed: str) -> AsyncIterator[_Session]:
        """See `Sampler`; all sessions of a sampler belong to one event loop at a time."""
        async with self._room.place():
            row = _Row(index=len(self._rows), random=random.Random(seed))
            self._rows.append(row)
            try:
                yield _Session(self, row)
            finally:
                self._remove(row)

    def _remove(self, row: _Row) -> None:
        last = self._rows.pop()
        if last is not row:
            self._cache.copy_row(last.index, row.index, last.length)
            self._rows[row.index] = last
            last.index = row.index

    def start_turn(self, row: _Row, new_token_ids: list[int], max_tokens: int) -> asyncio.Future[Sampled]:
        """Queue one turn of `row`; the future holds it once it is sampled."""
        row.unseen += new_token_ids
        row.token_ids, row.logprobs, row.max_tokens = [], [], max_tokens
        if max_tokens < 1 or row.length + len(row.unseen) + max_tokens > self._capacity:
            raise ValueError(f"{row.length + len(row.unseen)} + {max_tokens} tokens do not fit in {self._capacity}")
        row.turn = asyncio.get_running_loop().create_future()
        if self._engine is None or self._engine.done():
            self._engine = asyncio.get_running_loop().create_task(self._run())
        return row.turn

    async def _run(self) -> None:
        """Step until no row has a turn under way; every step lets the episodes move."""
        try:
            # a turn whose episode was cancelled is done before its row is gone
            while working := [row for row in self._rows if row.turn is not None and not row.turn.done()]:
                if fresh := [row for row in working if len(row.unseen) > 1]:
                    self._prefill(fresh)
                else:
                    self._decode(working)
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error)  # the episodes raise it
        except BaseException:
            self._fail(asyncio.CancelledError())
            raise

    def _fail(self, error: BaseException) -> None:
        for row in self._rows:
            if row.turn is not None and not row.turn.done():
                row.turn.set_exception(error)
            row.turn = None

    def _prefill(self, rows: list[_Row]) -> None:
        """Bring rows with several unseen tokens up to date and sample their next token.

        Rows that start with the same prompt (a group) are computed once and copied.
        """
        first: dict[tuple[int, ...], _Row] = {}
        twins: list[tuple[_Row, _Row]] = []
        unique: list[_Row] = []
        for row in rows:
            twin = first.setdefault(tuple(row.unseen), row) if row.length == 0 else row
            if twin is row:
                unique.append(row)
            else:
                twins.append((twin, row))
        logits: dict[_Row, torch.Tensor] = {}
        for batch in _batches(unique):
            logits.update(zip(batch, self._forward(batch), strict=True))
        for twin, row in twins:
            self._cache.copy_row(twin.index, row.index, twin.length)
            row.length, row.unseen = twin.length, []
            logits[row] = logits[twin]
        self._sample(rows, torch.stack([logits[row] for row in rows]))

    def _decode(self, working: list[_Row]) -> None:
        """One token for every row at work; rows that wait for a search ride along and are not read."""
        rows = self._rows
        device = self._source.device
        tokens = torch.tensor([row.unseen[:1] or [0] for row in rows], device=device)
        lengths = torch.tensor([row.length for row in rows], device=device)
        used = max(row.length for row in rows) + 1
        mask = (torch.arange(used, device=device) <= lengths[:, None])[:, None, None, :]
        self._cache.place(slice(0, len(rows)), lengths[:, None], used)
        logits = self._logits(tokens, lengths[:, None], mask)
        for row in working:
            row.length += 1
            row.unseen = []
        if len(working) < len(rows):
            logits = logits[[row.index for row in working]]
        self._sample(working, logits)

    def _forward(self, rows: list[_Row]) -> torch.Tensor:
        """Prefill the unseen tokens of `rows`, padded on the left; the logits (rows, vocabulary) after them."""
        device = self._source.device
        width = max(len(row.unseen) for row in rows)
        used = max(row.length + len(row.unseen) for row in rows)
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.full((len(rows), width), -1, dtype=torch.long)
        for i, row in enumerate(rows):
            count = len(row.unseen)
            tokens[i, width - count :] = torch.tensor(row.unseen)
            positions[i, width - count :] = torch.arange(row.length, row.length + count)
            row.length += count
            row.unseen = []
        tokens, positions = tokens.to(device), positions.to(device)
        # Padding sees the first column, for a softmax over nothing is no number.
        seen = torch.arange(used, device=device) <= positions.clamp(min=0)[..., None]
        index = torch.tensor([row.index for row in rows], device=device)
        self._cache.place(index, torch.where(positions < 0, self._capacity, positions), used)
        return self._logits(tokens, positions.clamp(min=0), seen[:, None])

    @torch.no_grad()
    def _logits(self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._adds_mask:
            mask = torch.zeros(mask.shape, dtype=self._model.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(self._model.dtype).min
            )
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Sample one token a row, each from its own random numbers, and end the turns that are over."""
        if self.temperature == 0:
            logprobs = logits.log_softmax(-1)
            tokens = logits.argmax(-1)
        else:
            logprobs = (logits / self.temperature).log_softmax(-1)
            uniform = torch.tensor([[row.random.random()] for row in rows], device=logits.device)
            cumulative = logprobs.exp().cumsum(-1)
            # Rounding may leave the sum short of 1: scale by it, and never point past the last token.
            tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
            tokens = tokens.clamp(max=logits.shape[-1] - 1)
        chosen = logprobs.gather(1, tokens[:, None])[:, 0]
        for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.unseen = [token]
            if finish := turn_end(row.token_ids, row.max_tokens, self.codec):
                assert row.turn is not None
                text = self.codec.decode(row.token_ids)
                row.turn.set_result(Sampled(row.token_ids, row.logprobs, text, finish))
                row.turn = None


@dataclass(frozen=True, slots=True)
class _Session:
    sampler: TransformersSampler
    row: _Row

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        """See `Session`."""
        return await self.sampler.start_turn(self.row, new_token_ids, max_tokens)


def _batches(rows: list[_Row]) -> Iterable[list[_Row]]:
    """Rows of like length together, so that little is padded."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: len(row.unseen)):
        if batch and (len(batch) + 1) * len(row.unseen) > _PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _partial_attention(model: PreTrainedModel, capacity: int) -> set[str]:
    """The kinds of layer that do not attend to all of `capacity` tokens."""
    if layer_types := getattr(model.config, "layer_types", None):
        return set(layer_types) - {"full_attention"}
    window = getattr(model.config, "sliding_window", None)
    return {"sliding_attention"} if window is not None and window < capacity else set()


def _copy_as(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """A copy whose parameters are `dtype`; buffers stay, for rotary frequencies need float32."""
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for module in twin.modules():
        # Trainers patch `forward` on the instance; a copied patch would still call the original model.
        module.__dict__.pop("forward", None)
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(dtype)
    return twin
