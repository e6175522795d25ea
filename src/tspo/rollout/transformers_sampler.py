"""Continuous batching over episodes on a transformers model.

Each session is one row of a key-value cache that lives as long as its episode: after a search only the new
tokens are prefilled, rows that end make room for waiting ones, and one forward pass a step serves them all.
"""

from __future__ import annotations

import asyncio
import copy
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.kv_cache import Piece, RowCache
from tspo.rollout.packed_linear import PackedLinear, pack_linears, packing_pays
from tspo.rollout.room import Room
from tspo.rollout.row_attention import attention_to_rows
from tspo.rollout.sampler import Sampled
from tspo.rollout.turns import turn_end

_PASS_TOKENS = 1024
"""Tokens of one pass; bounds the memory that a burst of prompts takes. On a CPU, longer passes are no faster."""

_STRETCH = 256
"""Tokens of the vocabulary whose probabilities are summed together; it is less where that does not divide it."""


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
    on_tokens: Callable[[Sequence[int]], None] | None = None


class TransformersSampler:
    """A `Sampler` on one device.

    `rows` sessions at most are open at once, each of at most `capacity` tokens. `temperature` 0 is greedy.
    With a `dtype` other than the model's, it samples from a copy that `refresh` brings up to date.
    Raises BadInput for a model whose layers do not all attend to the whole sequence, and for one whose
    attention is not plain (transformers' sdpa).
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
        if (attention := model.config._attn_implementation) != "sdpa":
            raise BadInput(f"model: the transformers sampler needs a model whose attention is sdpa, not {attention}")
        self.codec = codec
        self.temperature = temperature
        self._capacity = capacity
        self._source = model
        self._model = model if dtype in (None, model.dtype) else _copy_as(model, dtype)
        self._packed: list[PackedLinear] = []
        if self._model is not model and packing_pays(self._model):
            self._packed = pack_linears(self._model)
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
            for layer in self._packed:
                layer.pack()

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
            self._cache.copy_row(last.index, row.index)
            self._cache.clear_row(last.index)
            self._rows[row.index] = last
            last.index = row.index
        else:
            self._cache.clear_row(row.index)

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
                self._step(working)
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

    def _step(self, working: list[_Row]) -> None:
        """Bring rows up to date and sample their next token: single tokens and new prompts in one pass.

        Rows that start with the same prompt (a group) are computed once and copied.
        """
        first: dict[tuple[int, ...], _Row] = {}
        twins: list[tuple[_Row, _Row]] = []
        batch: list[_Row] = []
        room = _PASS_TOKENS
        for row in sorted(working, key=lambda row: len(row.unseen)):
            twin = first.setdefault(tuple(row.unseen), row) if row.length == 0 else row
            if twin is not row:
                twins.append((twin, row))
            elif not batch or len(row.unseen) <= room:
                batch.append(row)
                room -= len(row.unseen)
        # neighbours in the cache are read together
        batch.sort(key=lambda row: row.index)
        logits = self._forward(batch)
        place = {row: i for i, row in enumerate(batch)}
        copied = [(twin, row) for twin, row in twins if twin in place]
        for twin, row in copied:
            self._cache.copy_row(twin.index, row.index)
            row.length, row.unseen = twin.length, []
        if copied:
            logits = logits[[*place.values(), *(place[twin] for twin, _ in copied)]]
        self._sample([*batch, *(row for _, row in copied)], logits)

    @torch.no_grad()
    def _forward(self, rows: list[_Row]) -> torch.Tensor:
        """One pass over the unseen tokens of `rows`, without padding; the logits (rows, vocabulary) after them."""
        device = self._source.device
        pieces = [Piece(row.index, row.length, len(row.unseen)) for row in rows]
        tokens = torch.tensor([[token for row in rows for token in row.unseen]], device=device)
        last = torch.tensor([piece.count for piece in pieces], device=device).cumsum(0) - 1
        positions = self._cache.place(pieces, device)
        with attention_to_rows(self._model, self._cache):
            output = self._model(
                input_ids=tokens,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=last,
            )
        self._cache.passed()
        for row, piece in zip(rows, pieces, strict=True):
            row.length, row.unseen = piece.end, []
        return output.logits[0].float()

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Sample one token a row, each from its own random numbers, and end the turns that are over."""
        if self.temperature == 0:
            tokens = logits.argmax(-1, keepdim=True)
            logprobs = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
        else:
            probabilities = (logits / self.temperature if self.temperature != 1 else logits).softmax(-1)
            uniform = torch.tensor([[row.random.random()] for row in rows], device=logits.device)
            tokens = draw(probabilities, uniform)
            logprobs = probabilities.gather(1, tokens).log()
        for row, token, logprob in zip(rows, tokens[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.unseen = [token]
            if row.on_tokens is not None:
                row.on_tokens(row.token_ids)
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

    async def stream(
        self, new_token_ids: list[int], max_tokens: int, on_tokens: Callable[[Sequence[int]], None]
    ) -> Sampled:
        """See `StreamingSession`."""
        self.row.on_tokens = on_tokens
        try:
            return await self.sample(new_token_ids, max_tokens)
        finally:
            self.row.on_tokens = None


def draw(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token (rows, 1) in which the running sum of `probabilities` (rows, vocabulary) passes `uniform` (rows, 1).

    Sums of whole stretches come first, and the running sum only in the stretch that decides: one pass over all.
    """
    vocabulary = probabilities.shape[-1]
    size = math.gcd(vocabulary, _STRETCH)
    stretches = probabilities.view(len(probabilities), -1, size)
    up_to = stretches.sum(-1).cumsum(-1)
    wanted = _below(uniform * up_to[:, -1:], up_to[:, -1:])
    which = torch.searchsorted(up_to, wanted, right=True)
    stretch = stretches[torch.arange(len(stretches), device=which.device), which[:, 0]].cumsum(-1)
    rest = _below(wanted - up_to.gather(1, which) + stretch[:, -1:], stretch[:, -1:])
    return which * size + torch.searchsorted(stretch, rest, right=True)


def _below(values: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """`values` within [0, total): where rounding left them outside, a token that cannot be would be drawn."""
    return values.clamp(min=0.0).minimum(torch.nextafter(total, torch.zeros_like(total)))


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
