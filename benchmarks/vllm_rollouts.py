"""vLLM's rollouts for rollouts.py: one `LLM.generate` a turn on all conversations, with prefix caching.

It runs in an interpreter of its own, where vLLM's CPU build is installed. The engine core is in the process that asks,
so that no scheduler process spins on a core; threads are bound as vLLM's own worker processes bind them.
"""

from __future__ import annotations

import math
from ctypes.util import find_library
from pathlib import Path

from rollout_workload import TurnByTurn, Workload


def environment(python: Path, threads: int) -> dict[str, str]:
    """What vLLM's process has to be started with: as its guide for CPUs has it, with what is installed of that."""
    cores = ",".join(map(str, range(threads)))
    openmp = python.parents[1] / "lib/libiomp5.so"
    preload = [str(openmp)] if openmp.exists() else []
    if allocator := find_library("tcmalloc_minimal"):
        preload.append(allocator)
    return {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "LD_PRELOAD": ":".join(preload),
        "OMP_NUM_THREADS": str(threads),
        "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]",
        "KMP_BLOCKTIME": "5",
        "KMP_TPAUSE": "0",
    }


class Vllm(TurnByTurn):
    """vLLM, in bfloat16."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        from transformers import AutoConfig
        from vllm import LLM, SamplingParams

        config = AutoConfig.from_pretrained(workload.model)
        of_a_token = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        # Blocks are rounded up, and a round of prefixes must not be evicted by itself.
        cache = 1.25 * workload.concurrency * self.capacity() * of_a_token
        self._llm = LLM(
            model=workload.model,
            dtype="bfloat16",
            max_model_len=self.capacity(),
            max_num_seqs=workload.concurrency,
            kv_cache_memory_bytes=math.ceil(cache),
            enable_prefix_caching=True,
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
        self._sampling = SamplingParams(
            temperature=1.0,
            min_tokens=workload.turn_tokens,
            max_tokens=workload.turn_tokens,
            ignore_eos=True,
            logprobs=0,  # of the sampled token alone
            detokenize=False,
        )

    def begin(self, seed: int) -> None:
        """Forget the round before: between two rounds of training the weights change."""
        self._llm.reset_prefix_cache()

    def complete(self, conversations: list[list[int]]) -> list[tuple[list[int], list[float]]]:
        """See `TurnByTurn`."""
        prompts = [{"prompt_token_ids": conversation} for conversation in conversations]
        found = []
        for output in self._llm.generate(prompts, self._sampling, use_tqdm=False):
            token_ids = list(output.outputs[0].token_ids)
            chances = output.outputs[0].logprobs
            found.append((token_ids, [at[token].logprob for token, at in zip(token_ids, chances, strict=True)]))
        return found
