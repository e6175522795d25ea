"""Sampling on vLLM: its continuous batching, its paged cache, its kernels.

The engine is vLLM's own and runs in processes of its own; a turn is one request with the whole context as
token ids, and the prefix cache spares what earlier turns or the group have computed. Tokens come back as they
are sampled, and the turn is ended here, by the rule of all samplers: vLLM's stop strings look at text, which
may hold more than the tokens that must be kept.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from tspo.errors import BadInput
from tspo.files import why_not_written
from tspo.rollout.codec import Codec
from tspo.rollout.policy_folder import save_policy, temporary_folder
from tspo.rollout.sampler import FULL, Sampled, SamplingOptions
from tspo.rollout.turns import turn_end
from tspo.rollout.whole_context import Context, WholeContextSampler, flat

_LAUNCH = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What torch's launcher tells each process of its place."""

_SEEN = "what it says is above, more with VLLM_LOGGING_LEVEL=INFO"


class VLLMSampler(WholeContextSampler):
    """A `Sampler` on a vLLM engine that starts with it.

    `policy` is a model whose weights `refresh` takes over, or the folder or hub name of one. `rows` sessions
    at most are open at once, each of at most `capacity` tokens. `engine` are fields of vLLM's AsyncEngineArgs.
    Raises BadInput where vLLM is not installed or does not start.
    """

    def __init__(
        self,
        policy: PreTrainedModel | str,
        codec: Codec,
        *,
        rows: int,
        capacity: int,
        sampling: SamplingOptions = FULL,
        dtype: torch.dtype = torch.float32,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(codec, rows=rows, capacity=capacity, sampling=sampling, name="vllm")
        self._policy = policy
        self._numbers = itertools.count()
        self._engine: Any = None
        self._folder: Path | None = None
        if isinstance(policy, str):
            place = policy
        else:
            self._folder = temporary_folder(policy)
            place = self._save(policy)
        settings = {
            "model": place,
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": capacity,
            "max_num_seqs": rows,
            **(engine or {}),
        }
        try:
            self._engine = self._loop.wait(_start(settings))
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Give the engine the policy's weights of this moment, and empty its prefix cache.

        The weights go through a folder in shared memory and vLLM's own reload, which is in place.
        """
        if isinstance(self._policy, str):
            return
        old = sorted(self._folder.iterdir()) if self._folder else []
        place = self._save(self._policy)
        self._loop.wait(self._reload(place))
        for folder in old:
            shutil.rmtree(folder)

    def close(self) -> None:
        """See `Sampler`: ends the engine's processes."""
        if self._engine is not None:
            self._loop.wait(_shut_down(self._engine))
            self._engine = None
        self._loop.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _turn(self, context: Context, max_tokens: int, seed: int) -> Sampled:
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if self._engine is None:
            raise RuntimeError("the vLLM engine is closed")
        token_ids: list[int] = []
        logprobs: list[float] = []
        request = self._engine.generate(
            TokensPrompt(prompt_token_ids=flat(context)), self._params(max_tokens, seed), str(next(self._numbers))
        )
        try:
            async with aclosing(request) as outputs:  # leaving it early aborts the request
                async for output in outputs:
                    new = output.outputs[0]
                    for token, logprob in zip(new.token_ids, new.logprobs, strict=True):
                        token_ids.append(token)
                        logprobs.append(logprob[token].logprob)
                        if finish := turn_end(token_ids, max_tokens, self.codec):
                            return Sampled(token_ids, logprobs, self.codec.decode(token_ids), finish)
        except (EngineDeadError, EngineGenerateError) as error:
            raise BadInput(f"vllm: the engine failed ({_reason(error)}); {_SEEN}") from error
        raise BadInput(f"vllm: the engine gave up a turn after {len(token_ids)} tokens; {_SEEN}")

    def _params(self, max_tokens: int, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            min_p=self.sampling.min_p,
            seed=seed,
            max_tokens=max_tokens,
            logprobs=0,  # of the sampled token alone
            ignore_eos=True,  # the end tokens are the codec's, whatever the model's files say
            stop_token_ids=sorted(self.codec.eos_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def _reload(self, place: str) -> None:
        try:
            await self._engine.collective_rpc("take_over", args=(place,))
            await self._engine.reset_prefix_cache()
        except Exception as error:
            raise BadInput(f"vllm: the engine did not take over new weights ({_reason(error)}); {_SEEN}") from error

    def _save(self, policy: PreTrainedModel) -> str:
        assert self._folder is not None
        place = self._folder / f"{next(self._numbers):09d}"  # never over a file that the engine may have mapped
        try:
            save_policy(policy, place)
        except OSError as error:
            raise BadInput(f"{place}: the weights for vLLM were not written {why_not_written(error)}") from None
        return str(place)


async def _start(settings: dict[str, Any]) -> Any:
    """An engine, made in the event loop that it will live in."""
    # Read when vLLM is imported, here and in its processes.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise BadInput(f"rollout.sampler: vllm cannot be imported ({error}); pip install 'tspo[vllm]'") from None
    given = {
        "skip_tokenizer_init": True,  # tokens go in, tokens come out
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # what the model's files say about sampling does not count
        "logprobs_mode": "processed_logprobs",  # of the distribution that was sampled from
        "worker_extension_cls": "tspo.rollout.vllm_worker.TakesOverWeights",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    if current_platform.is_cpu():
        given |= _on_cpu(settings)
    # Ctrl-C is for the program, which closes the engine: processes that this thread starts inherit what it blocks.
    resource_tracker.ensure_running()  # it would unblock when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _one_of_several():
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**given | settings))
    except Exception as error:
        raise BadInput(f"vllm: the engine did not start ({_reason(error)}); {_SEEN}") from error


@contextmanager
def _one_of_several() -> Iterator[None]:
    """Where a launcher started several processes, an engine of this one alone, on this one's GPU.

    What the launcher told this process would make the engine's processes take themselves for some of the run's.
    """
    told = {name: os.environ[name] for name in os.environ if name in _LAUNCH or name.startswith("TORCHELASTIC_")}
    if int(told.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for name in told:
        del os.environ[name]
    if torch.cuda.is_available():
        all_visible = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = all_visible[int(told["LOCAL_RANK"])]
    try:
        yield
    finally:
        os.environ.update(told)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def _on_cpu(settings: dict[str, Any]) -> dict[str, Any]:
    """What vLLM would have otherwise on a CPU: most of the memory, long blocks, minutes of compilation."""
    given = {"block_size": 32, "enforce_eager": True}
    if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        config = AutoConfig.from_pretrained(settings["model"], trust_remote_code=False).get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        per_token = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * size
        # every session ends within a block, and vLLM keeps a few to itself
        tokens = settings["max_num_seqs"] * (settings["max_model_len"] + given["block_size"]) + 16 * given["block_size"]
        given["kv_cache_memory_bytes"] = per_token * tokens * getattr(torch, settings["dtype"]).itemsize
    return given


async def _shut_down(engine: Any) -> None:
    engine.shutdown()


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, of its cause if it says nothing itself."""
    while not str(error).strip() and error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
