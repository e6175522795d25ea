"""Rollouts for rollouts.py as most scripts have them: `generate` on whole conversations, padded on the left."""

from __future__ import annotations

import torch

from rollout_workload import TurnByTurn, Workload
from torch_models import bfloat16_model


class Plain(TurnByTurn):
    """transformers' `generate`, which forgets its cache between turns."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._model = bfloat16_model(workload)

    def begin(self, seed: int) -> None:
        """Seed the sampling."""
        torch.manual_seed(seed)

    def complete(self, conversations: list[list[int]]) -> list[tuple[list[int], list[float]]]:
        """See `TurnByTurn`."""
        padded = self.tokenizer.pad({"input_ids": conversations}, padding_side="left", return_tensors="pt")
        output = self._model.generate(
            **padded,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=self.workload.turn_tokens,  # no end token before
            max_new_tokens=self.workload.turn_tokens,
            output_scores=True,
            return_dict_in_generate=True,
        )
        logprobs = self._model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        sampled = output.sequences[:, padded["input_ids"].shape[1] :]
        return list(zip(sampled.tolist(), logprobs.tolist(), strict=True))
