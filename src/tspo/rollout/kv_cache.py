"""A key-value cache of rows with lengths of their own, and the pieces of them that a forward pass brings."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from transformers import Cache

from tspo.rollout.row_kernels import kernels_for

BLOCK_ROWS = 16
"""Rows that lie together; products read them together, all as far as the longest of them."""

_GRAIN = 64
"""A block's products take so many columns more at a time: in between they have one shape."""

_ROOM = 256
"""Columns by which a block grows in memory."""


def cache_argument(model: Any) -> str:
    """What `forward` of a model calls its cache: `past_key_values`, until transformers 5.40 takes that away."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's hands anything on
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class Piece(NamedTuple):
    """`new` tokens of one row that a forward pass brings; the row holds `start` tokens already."""

    row: int
    start: int
    new: int

    @property
    def end(self) -> int:
        """The row's length after the pass."""
        return self.start + self.new


@dataclass(frozen=True, slots=True)
class BlockPass:
    """What a forward pass brings to one block, for plain operations; `tokens` are its places in the pass.

    `rows` and `columns` (tokens,) say where in the block each token lies. Rows that get a single token are computed
    together: `single` are their places in the pass, `single_rows` their rows; the block's rows in use are of `lengths`
    (live rows,) after the pass, and `unseen` (live rows, 1, 1, columns in use) takes what is past them out of a
    softmax.
    """

    block: int
    tokens: slice
    rows: torch.Tensor
    columns: torch.Tensor
    single: torch.Tensor
    single_rows: torch.Tensor
    lengths: torch.Tensor
    unseen: torch.Tensor

    def unseen_in(self, window: int | None) -> torch.Tensor:
        """`unseen`, with what is before the last `window` tokens of a row out of it too."""
        if window is None:
            return self.unseen
        columns = torch.arange(self.unseen.shape[-1], device=self.lengths.device)
        before = columns < self.lengths[:, None] - window
        return self.unseen.masked_fill(before[:, None, None], -torch.inf)


class Pass:
    """A forward pass of `pieces`, one flat sequence in the order of their rows.

    `places` (tokens, 3) int64 says where each token lies: its block, its row in there, and its column, which is its
    position. `in_use` are the columns that each block uses then.
    """

    def __init__(self, pieces: Sequence[Piece], cache: RowCache, device: torch.device) -> None:
        self.pieces: list[tuple[Piece, slice]] = []
        """With their places in the pass."""
        self._lengths: dict[int, list[int]] = {}
        places: list[int] = []
        at = 0
        for piece in pieces:
            self.pieces.append((piece, slice(at, at + piece.new)))
            at += piece.new
            block, row = divmod(piece.row, BLOCK_ROWS)
            if block not in self._lengths:
                self._lengths[block] = cache.lengths_in(block)
            self._lengths[block][row] = piece.end
            for column in range(piece.start, piece.end):
                places += (block, row, column)
        self.places = torch.tensor(places, device=device).view(-1, 3)
        self.in_use = {block: cache.up_to(max(lengths), _GRAIN) for block, lengths in self._lengths.items()}
        self._up_to: dict[int, torch.Tensor] = {}
        self.longest = max((piece.end for piece in pieces), default=0)
        """Tokens of the longest row that the pass brings something."""

    def longer_than(self, count: int) -> list[tuple[Piece, slice]]:
        """The pieces of more than `count` tokens."""
        return [(piece, at) for piece, at in self.pieces if piece.new > count]

    def tokens_up_to(self, count: int) -> torch.Tensor:
        """The places (tokens,) in the pass of all tokens of the other pieces."""
        if count not in self._up_to:
            tokens = [token for piece, at in self.pieces if piece.new <= count for token in range(at.start, at.stop)]
            self._up_to[count] = torch.tensor(tokens, dtype=torch.long, device=self.places.device)
        return self._up_to[count]

    @cached_property
    def by_block(self) -> list[BlockPass]:
        """The pass block by block."""
        inside: dict[int, list[tuple[Piece, slice]]] = {}
        for piece, at in self.pieces:
            inside.setdefault(piece.row // BLOCK_ROWS, []).append((piece, at))
        return [self._block_pass(block, pieces) for block, pieces in inside.items()]

    def _block_pass(self, block: int, pieces: list[tuple[Piece, slice]]) -> BlockPass:
        device = self.places.device
        lengths = list(self._lengths[block])
        while lengths[-1] == 0:  # rows past the last one in use
            lengths.pop()
        columns = self.in_use[block]
        ends = torch.tensor(lengths)
        unseen = torch.zeros(len(lengths), columns)
        unseen.masked_fill_(torch.arange(columns) >= ends[:, None], -torch.inf)
        tokens = slice(pieces[0][1].start, pieces[-1][1].stop)
        single = [(piece.row % BLOCK_ROWS, at.start) for piece, at in pieces if piece.new == 1]
        return BlockPass(
            block,
            tokens,
            self.places[tokens, 1],
            self.places[tokens, 2],
            torch.tensor([at for _, at in single], dtype=torch.long, device=device),
            torch.tensor([row for row, _ in single], dtype=torch.long, device=device),
            ends.to(device),
            unseen[:, None, None].to(device),
        )


class RowCache(Cache):
    """Blocks of keys (rows, heads, head size, columns) and values (rows, heads, columns, head size) a layer.

    Keys lie as the product with a query reads them. A block has columns for its longest row and some to grow: more
    than `capacity` tokens a row never, and less where less is used. A forward pass is one flat sequence of pieces,
    (1, tokens), in the order of their rows, and `place` says which: no token of it is padding.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self._pass: Pass | None = None
        self._lengths = [0] * rows
        self._layers: list[Layer] = []

    def place(self, pieces: Sequence[Piece], device: torch.device) -> torch.Tensor:
        """Say what the next forward pass brings; the positions (1, tokens) of its tokens."""
        self._pass = Pass(pieces, self, device)
        return self._pass.places[None, :, 2]

    def passed(self) -> None:
        """The pass went through: its rows hold its tokens. After one that failed they hold what they held."""
        assert self._pass is not None
        for piece, _ in self._pass.pieces:
            self._lengths[piece.row] = piece.end

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Store (1, heads, tokens, head size); what `row_attention` attends to, as keys and as values."""
        assert self._pass is not None
        if layer_idx == len(self._layers):
            self._layers.append(Layer(self, key_states, value_states))
        layer = self._layers[layer_idx]
        layer.store(self._pass, key_states, value_states)
        stored = Stored(self._pass, layer)
        return stored, stored

    @torch.inference_mode()
    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make row `target` the first `length` tokens of row `source`."""
        self._lengths[target] = length
        if length == 0:  # its block may not be there yet
            return
        columns = max(self.lengths_in(target // BLOCK_ROWS))
        for layer in self._layers:
            layer.copy_row(source, target, length, columns)

    def clear_row(self, row: int) -> None:
        """Forget what `row` holds."""
        self._lengths[row] = 0

    @property
    def windows(self) -> list[int | None]:
        """How many tokens a token was last said to see in each layer; None for all."""
        return [layer.window for layer in self._layers]

    @property
    def num_blocks(self) -> int:
        """Blocks that all rows make."""
        return -(-len(self._lengths) // BLOCK_ROWS)

    def rows_in(self, block: int) -> int:
        """How many rows a block has."""
        return min(BLOCK_ROWS, len(self._lengths) - block * BLOCK_ROWS)

    def lengths_in(self, block: int) -> list[int]:
        """The lengths of a block's rows."""
        return self._lengths[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]

    def up_to(self, length: int, grain: int) -> int:
        """Columns for rows that are so long, in whole grains."""
        return min(-(-length // grain) * grain, self.capacity)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not used to place anything: positions are given with each forward pass."""
        return 0


class Layer:
    """The blocks of one layer, of the sizes and the type that its first keys and values have."""

    def __init__(self, cache: RowCache, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._cache = cache
        self._dtype, self._device = key_states.dtype, key_states.device
        self.key_heads, self.size = key_states.shape[1::2]
        self.value_size = value_states.shape[3]
        self.kernels = kernels_for(key_states, value_states)
        self.blocks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.table = torch.zeros(cache.num_blocks, 3, dtype=torch.long)
        """Of each block the addresses of its keys and of its values, and its columns: what kernels are told."""
        self.window: int | None = None
        """How many tokens each token was last said to see, itself among them; None where it sees all."""

    def store(self, bringing: Pass, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Put (1, heads, tokens, head size) where the pass says."""
        for block, columns in bringing.in_use.items():
            self._fit(block, columns)
        if self.kernels is not None:
            self.kernels.store(key_states[0], value_states[0], self.table, bringing.places)
            return
        for part in bringing.by_block:
            keys, values = self.blocks[part.block]
            keys[part.rows, :, :, part.columns] = key_states[0, :, part.tokens].transpose(0, 1)
            values[part.rows, :, part.columns] = value_states[0, :, part.tokens].transpose(0, 1)

    def copy_row(self, source: int, target: int, length: int, columns: int) -> None:
        """See `RowCache`; the target's block has `columns` columns at least then."""
        (from_block, from_row), (to_block, to_row) = divmod(source, BLOCK_ROWS), divmod(target, BLOCK_ROWS)
        self._fit(to_block, columns)
        if self.kernels is not None:
            sizes = self.key_heads, self.size, self.value_size
            self.kernels.copy_row(self.table, (from_block, from_row), (to_block, to_row), length, *sizes)
            return
        keys, values = self.blocks[from_block]
        to_keys, to_values = self.blocks[to_block]
        to_keys[to_row, :, :, :length] = keys[from_row, :, :, :length]
        to_values[to_row, :, :length] = values[from_row, :, :length]

    def _fit(self, block: int, columns: int) -> None:
        """Give a block so many columns at least, and no more than there is use for."""
        stored = self.blocks.get(block)
        held = 0 if stored is None else stored[1].shape[2]
        if columns <= held < columns + 2 * _ROOM:
            return
        columns = self._cache.up_to(columns, _ROOM)
        rows = self._cache.rows_in(block)
        keys = torch.empty(rows, self.key_heads, self.size, columns, dtype=self._dtype, device=self._device)
        values = torch.empty(rows, self.key_heads, columns, self.value_size, dtype=self._dtype, device=self._device)
        kept = min(columns, held)
        if stored is not None:
            keys[..., :kept] = stored[0][..., :kept]
            values[:, :, :kept] = stored[1][:, :, :kept]
        # zeros: what no row has written yet is multiplied by 0, which only finite numbers survive
        keys[..., kept:] = 0
        values[:, :, kept:] = 0
        self.blocks[block] = keys, values
        self.table[block] = torch.tensor([keys.data_ptr(), values.data_ptr(), columns])


@dataclass(frozen=True, slots=True)
class Stored:
    """What a layer attends to in a pass: its blocks, the pass's own tokens among them."""

    bringing: Pass
    layer: Layer
