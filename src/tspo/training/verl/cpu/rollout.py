"""A rollout engine of verl on CPUs: a server with this project's transformers sampler, and its adapter.

verl's own engines (vLLM, SGLang, TensorRT-LLM) hand weights over through CUDA memory; here they go through Ray's
object store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import ray
import torch
from verl.utils.fs import copy_to_local
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from tspo.rollout.codec import Codec
from tspo.rollout.models import end_token_ids, load_model, load_tokenizer
from tspo.rollout.sampler import SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler
from tspo.training.verl.names import CPU


def server_name(replica_rank: int) -> str:
    """Ray's name of a replica's server."""
    return f"{CPU}_server_{replica_rank}"


class CPUServer:
    """One replica of the policy; requests that overlap in time are sampled side by side."""

    def __init__(self, model: str, max_sessions: int, max_model_len: int) -> None:
        self._model = load_model(model).eval().requires_grad_(False)
        tokenizer = load_tokenizer(model)
        self._codec = Codec(tokenizer, end_token_ids=end_token_ids(model, tokenizer))
        self._rows = max_sessions
        self._capacity = max_model_len
        self._samplers: dict[SamplingOptions, TransformersSampler] = {}
        self._global_steps: int | None = None

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **_: Any
    ) -> TokenOutput:
        """Sample one turn; the sampler ends it as the stop strings say that verl's engines are given."""
        sampling = SamplingOptions(
            float(sampling_params["temperature"]),
            top_k=max(int(sampling_params.get("top_k", 0)), 0),  # verl says -1 for all
            top_p=float(sampling_params.get("top_p", 1.0)),
        )
        if sampling not in self._samplers:
            self._samplers[sampling] = TransformersSampler(
                self._model, self._codec, rows=self._rows, capacity=self._capacity, sampling=sampling
            )
        async with self._samplers[sampling].session(str(sampling_params["seed"])) as session:
            sampled = await session.sample(list(prompt_ids), int(sampling_params["max_tokens"]))
        return TokenOutput(
            token_ids=sampled.token_ids,
            log_probs=sampled.logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": self._global_steps},
        )

    async def update_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Take over `weights`, which are all of the model's."""
        missing, unexpected = self._model.load_state_dict(weights, strict=False)
        tied = set(self._model._tied_weights_keys or ())
        if unexpected or set(missing) - tied:
            raise RuntimeError(f"weights do not fit the model: missing {missing}, unexpected {unexpected}")
        self._global_steps = global_steps

    async def wake_up(self) -> None:
        """See verl's servers; nothing was freed."""

    async def sleep(self) -> None:
        """See verl's servers; memory is not shared with the trainer."""

    async def clear_kv_cache(self) -> None:
        """See verl's servers; a session's cache goes with it."""


class CPUReplica(RolloutReplica):
    """Starts the server of one replica."""

    async def launch_servers(self) -> None:
        """See `RolloutReplica`."""
        server = (
            ray.remote(CPUServer)
            .options(name=server_name(self.replica_rank), max_concurrency=self.max_concurrency)
            .remote(
                copy_to_local(self.model_config.path),
                self.config.max_num_seqs,
                self.config.max_model_len,
            )
        )
        await server.wake_up.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)


class CPURollout(BaseRollout):
    """The trainer's end: sends the weights of its rank to the server of its replica."""

    async def resume(self, tags: list[str]) -> None:
        """See `BaseRollout`; nothing was freed."""

    async def release(self) -> None:
        """See `BaseRollout`; memory is not shared with the trainer."""

    async def update_weights(
        self, weights: Iterator[tuple[str, torch.Tensor]], *, global_steps: int | None = None, **_: Any
    ) -> None:
        """See `BaseRollout`; gathering a weight from all ranks is collective, so that each rank gathers all."""
        gathered = {name: weight.detach().to("cpu", copy=True) for name, weight in weights}
        server = ray.get_actor(server_name(torch.distributed.get_rank()))
        await asyncio.wrap_future(server.update_weights.remote(gathered, global_steps).future())


RolloutReplicaRegistry.register(CPU, lambda: CPUReplica)
_ROLLOUT_REGISTRY[CPU, "async"] = f"{__name__}.{CPURollout.__name__}"
