"""A key-value cache of rows with lengths of their own, and the pieces of them that a forward pass brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

BLOCK_ROWS = 16
"""Rows that lie together and are read together, all as far as the longest of them."""

_GRAIN = 64
"""A block's products take so many columns more at a time: in between they have one shape."""

_ROOM = 256
"""Columns by which a block grows in memory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` tokens of one row that a forward pass brings; the row holds `start` tokens already."""

    row: int
    start: int
    count: int

    @property
    def end(self) -> int:
        """The row's length after the pass."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class BlockPass:
    """What a forward pass brings to one block, which uses `columns` then; `tokens` are its places in the pass.

    `rows` and `positions` (tokens,) say where in the block each token lies. Rows that get a single token are
    computed together: `single` are their places in the pass, `single_rows` their rows, `single_ends` the rows' lengths
    with it, and `unseen` (live rows, 1, 1, columns) takes what is past each row's end out of a softmax. `longer` are
    the others, with their places.
    """

    block: int
    columns: int
    tokens: slice
    rows: torch.Tensor
    positions: torch.Tensor
    single: torch.Tensor
    single_rows: torch.Tensor
    single_ends: torch.Tensor
    unseen: torch.Tensor
    longer: Sequence[tuple[Piece, slice]]


class RowCache(Cache):
    """Blocks of keys (rows, heads, head size, columns) and values (rows, heads, columns, head size) a layer.

    Keys lie as the product with a query reads them. A block has columns for its longest row and some to grow: more
    than `capacity` tokens a row never, and less where less is used. A forward pass is one flat sequence of pieces,
    (1, tokens), in the order of their rows, and `place` says which: no token of it is padding.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.passes: Sequence[BlockPass] = ()
        """The pass under way, block by block."""
        self._pieces: Sequence[Piece] = ()
        self._lengths = [0] * rows
        self._layers: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = []

    def place(self, pieces: Sequence[Piece], device: torch.device) -> torch.Tensor:
        """Say what the next forward pass brings; the positions (1, tokens) of its tokens."""
        by_block: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_block.setdefault(piece.row // BLOCK_ROWS, []).append(piece)
        passes: list[BlockPass] = []
        at = 0
        for block, inside in by_block.items():
            passes.append(self._pass_of(block, inside, at, device))
            at = passes[-1].tokens.stop
        self._pieces, self.passes = pieces, passes
        return torch.cat([part.positions for part in passes])[None]

    def passed(self) -> None:
        """The pass went through: its rows hold its tokens. After one that failed they hold what they held."""
        for piece in self._pieces:
            self._lengths[piece.row] = piece.end

    def _pass_of(self, block: int, pieces: Sequence[Piece], at: int, device: torch.device) -> BlockPass:
        single: list[int] = []
        longer: list[tuple[Piece, slice]] = []
        rows: list[int] = []
        lengths = self._lengths_in(block)
        start = at
        for piece in pieces:
            row = piece.row % BLOCK_ROWS
            rows += [row] * piece.count
            lengths[row] = piece.end
            if piece.count == 1:
                single.append(at)
            else:
                longer.append((piece, slice(at, at + piece.count)))
            at += piece.count
        columns = self._up_to(lengths, _GRAIN)
        while lengths[-1] == 0:  # rows past the last one in use
            lengths.pop()
        unseen = torch.zeros(len(lengths), columns)
        unseen.masked_fill_(torch.arange(columns) >= torch.tensor(lengths)[:, None], -torch.inf)
        return BlockPass(
            block,
            columns,
            slice(start, at),
            torch.tensor(rows, device=device),
            torch.cat([torch.arange(piece.start, piece.end) for piece in pieces]).to(device),
            torch.tensor(single, dtype=torch.long, device=device),
            torch.tensor([rows[place - start] for place in single], dtype=torch.long, device=device),
            torch.tensor([lengths[rows[place - start]] for place in single], dtype=torch.long, device=device),
            unseen[:, None, None].to(device),
            longer,
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Store (1, heads, tokens, head size); the keys and the values of each block of `passes`."""
        if layer_idx == len(self._layers):
            self._layers.append({})
        stores = []
        for part in self.passes:
            keys, values = store = self._fit(layer_idx, part.block, part.columns, key_states, value_states)
            keys[part.rows, :, :, part.positions] = key_states[0, :, part.tokens].transpose(0, 1)
            values[part.rows, :, part.positions] = value_states[0, :, part.tokens].transpose(0, 1)
            stores.append(store)
        return [keys for keys, _ in stores], [values for _, values in stores]

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is."""
        length = self._lengths[target] = self._lengths[source]
        if length == 0:  # its block may not be there yet
            return
        (from_block, from_row), (to_block, to_row) = divmod(source, BLOCK_ROWS), divmod(target, BLOCK_ROWS)
        columns = max(self._lengths_in(to_block))
        for layer, blocks in enumerate(self._layers):
            keys, values = blocks[from_block]
            to_keys, to_values = self._fit(layer, to_block, columns, keys.transpose(2, 3), values)
            to_keys[to_row, :, :, :length] = keys[from_row, :, :, :length]
            to_values[to_row, :, :length] = values[from_row, :, :length]

    def clear_row(self, row: int) -> None:
        """Forget what `row` holds."""
        self._lengths[row] = 0

    def _lengths_in(self, block: int) -> list[int]:
        return self._lengths[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]

    def _up_to(self, lengths: Sequence[int], grain: int) -> int:
        """Columns for rows that are so long, in whole grains."""
        return min(-(-max(lengths) // grain) * grain, self.capacity)

    def _fit(
        self, layer: int, block: int, columns: int, keys_like: torch.Tensor, values_like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A block's keys and values with so many columns at least, and no more than there is use for."""
        stored = self._layers[layer].get(block)
        held = 0 if stored is None else stored[1].shape[2]
        if stored is None or not columns <= held < columns + 2 * _ROOM:
            columns = self._up_to([columns], _ROOM)
            rows = min(BLOCK_ROWS, len(self._lengths) - block * BLOCK_ROWS)
            heads, size = keys_like.shape[1], keys_like.shape[3]
            keys = keys_like.new_empty(rows, heads, size, columns)
            values = values_like.new_empty(rows, heads, columns, values_like.shape[3])
            kept = min(columns, held)
            if stored is not None:
                keys[..., :kept] = stored[0][..., :kept]
                values[:, :, :kept] = stored[1][:, :, :kept]
            # zeros: what no row has written yet is multiplied by 0, which only finite numbers survive
            keys[..., kept:] = 0
            values[:, :, kept:] = 0
            stored = self._layers[layer][block] = keys, values
        return stored

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not used to place anything: positions are given with each forward pass."""
        return 0
