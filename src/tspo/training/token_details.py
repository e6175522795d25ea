"""What is kept of single policy tokens for `tspo view`: where they stand in the text, and their ratio in the update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tspo.files import atomic_write

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tspo.trajectory import Trajectory


def log_ratio_file(trajectories: Path) -> Path:
    """Where the log ratios of a trajectory file's policy tokens are: a NumPy array beside it, in the file's order."""
    return trajectories.with_name(f"{trajectories.stem}.log_ratios.npy")


def add_token_ends(trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give each sampled turn, as `token_ends`, how many characters of its text each token and those before it make."""
    for turn in trajectory.turns:
        if turn.token_ids is not None and (ends := token_ends(turn.token_ids, turn.text, tokenizer)) is not None:
            turn.extra["token_ends"] = ends


def token_ends(token_ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The end of each token in `text`; None where the tokens do not say `text`, or the tokenizer cannot tell.

    A token that only begins a character ends where the one before it does. Tokens past the text end with it.
    """
    from tokenizers.decoders import DecodeStream

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    stream = DecodeStream(skip_special_tokens=False)
    said = ""
    ends = []
    for token in token_ids:
        said += stream.step(backend, token) or ""
        ends.append(min(len(said), len(text)))
    if ends and text.startswith(said) and len(said) < len(text):
        ends[-1] = len(text)  # the last character was cut off, and stands there as U+FFFD
    return ends if said.startswith(text) or text.startswith(said) else None


class LogRatios:
    """The log ratio of each policy token of one rollout, update over sampler, as the last update had it.

    Rows are this process's trajectories, in their order; NaN stands for tokens that no update has seen.
    """

    def __init__(self, sampled: Sequence[NDArray[np.int64]], trajectories: Path) -> None:
        """`sampled` has each row's mask of policy tokens in its completion, `trajectories` is the file they are in."""
        self.path = log_ratio_file(trajectories)
        self.rows = [np.full(int(mask.sum()), np.nan, dtype=np.float16) for mask in sampled]

    def note(
        self, rows: torch.Tensor, logprobs: torch.Tensor, sampled_with: torch.Tensor, scored: torch.Tensor
    ) -> None:
        """Take a pass's log-probabilities: all but `rows` (n,) are (n, completion tokens), `scored` a mask."""
        ratios = (logprobs.detach() - sampled_with).float().cpu().numpy()
        masks = scored.bool().cpu().numpy()
        for row, ratio, mask in zip(rows.tolist(), ratios, masks, strict=True):
            if mask.sum() == len(self.rows[row]):  # a trajectory that is outside the loss has none
                self.rows[row][:] = ratio[mask]

    def write(self, everyone: Sequence[NDArray[Any]]) -> None:
        """Write the rows of all processes, in order, whole or not at all."""
        with atomic_write(self.path) as stream:
            np.save(stream.buffer, np.concatenate(everyone), allow_pickle=False)
