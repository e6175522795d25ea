"""What is kept of single policy tokens for `tspo view`: where they stand in the text, and their ratio in the update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tspo.training.batch import Batch
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


def log_ratios(trajectories: Sequence[Trajectory], batch: Batch, logprobs: torch.Tensor) -> list[NDArray[np.float16]]:
    """The log ratio of each sampled token, update over sampler: (tokens,) a trajectory.

    `logprobs` (N,) are the last update's. NaN stands on the tokens of trajectories that are outside the loss.
    """
    ratios = (logprobs - batch.sampled_logprobs).numpy().astype(np.float16)
    rows = np.split(ratios, batch.loss_tokens.cumsum(0)[:-1].numpy())
    sampled = (sum(len(turn.token_ids or ()) for turn in trajectory.turns) for trajectory in trajectories)
    return [
        row if len(row) == count else np.full(count, np.nan, dtype=np.float16)
        for row, count in zip(rows, sampled, strict=True)
    ]
