"""A key-value cache of rows with lengths of their own, for any transformers model with full attention."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache


class RowCache(Cache):
    """Keys and values of shape (rows, heads, capacity + 1, head size) a layer, allocated on first use.

    Before each forward pass `place` says which rows it is for and at which positions they write. The last
    column takes what padding writes; no mask ever shows it.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.capacity = capacity
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def place(self, rows: torch.Tensor | slice, positions: torch.Tensor, used: int) -> None:
        """Write the next forward pass at `positions` (rows, tokens) and show it the first `used` columns."""
        self._rows, self._used = rows, used
        index = torch.arange(rows.stop, device=positions.device) if isinstance(rows, slice) else rows
        self._at = (index[:, None], slice(None), positions)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (rows, heads, tokens, head size) and return all that those rows hold so far."""
        if layer_idx == len(self._keys):
            for store, states in ((self._keys, key_states), (self._values, value_states)):
                store.append(states.new_zeros(self.rows, states.shape[1], self.capacity + 1, states.shape[3]))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._at] = key_states.transpose(1, 2)
        values[self._at] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._used], values[self._rows, :, : self._used]

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Give row `target` the first `length` columns of row `source`."""
        for store in (*self._keys, *self._values):
            store[target, :, :length] = store[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not used to place anything: positions and masks are given with each forward pass."""
        return 0
