"""The policy as the engines on transformers have it."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from rollout_workload import Workload


def bfloat16_model(workload: Workload) -> PreTrainedModel:
    """The model in bfloat16, on the workload's threads; transformers is told to keep quiet."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(workload.threads)
    return AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.bfloat16).eval()
