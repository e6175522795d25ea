"""A key-value cache of rows with lengths of their own, and the pieces of them that a forward pass brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache


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


class RowCache(Cache):
    """Keys and values of shape (rows, heads, capacity, head size) a layer, allocated on first use.

    A forward pass is one flat sequence of pieces, (1, tokens), and `place` says which: no token of it is padding.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.capacity = capacity
        self.pieces: Sequence[Piece] = ()
        """The pieces of the pass under way, in its order."""
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def place(self, pieces: Sequence[Piece], device: torch.device) -> torch.Tensor:
        """Say what the next forward pass brings; the positions (1, tokens) of its tokens."""
        counts = torch.tensor([piece.count for piece in pieces])
        starts = torch.tensor([piece.start for piece in pieces])
        rows = torch.tensor([piece.row for piece in pieces])
        before = (counts.cumsum(0) - counts).repeat_interleave(counts)
        positions = (starts.repeat_interleave(counts) + torch.arange(len(before)) - before).to(device)
        self.pieces = pieces
        self._at = (rows.repeat_interleave(counts).to(device), slice(None), positions)
        return positions[None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (1, heads, tokens, head size) and return what all rows hold."""
        if layer_idx == len(self._keys):
            for store, states in ((self._keys, key_states), (self._values, value_states)):
                store.append(states.new_zeros(self.rows, states.shape[1], self.capacity, states.shape[3]))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._at] = key_states[0].transpose(0, 1)
        values[self._at] = value_states[0].transpose(0, 1)
        return keys, values

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Give row `target` the first `length` columns of row `source`."""
        for store in (*self._keys, *self._values):
            store[target, :, :length] = store[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not used to place anything: positions are given with each forward pass."""
        return 0
