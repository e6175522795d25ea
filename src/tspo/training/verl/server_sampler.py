"""Sampling turns from verl's inference servers, which Ray places, balances and gives new weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from tspo.protocol import STOP_STRINGS
from tspo.rollout.codec import Codec
from tspo.rollout.sampler import Sampled
from tspo.rollout.turns import turn_end
from tspo.rollout.whole_context import Context, WholeContext, flat


class ServerSampler:
    """A `Sampler` of one episode on `client`, verl's LLMServerClient.

    `sampling` are verl's sampling parameters of this episode. A turn is one request with the whole context; equal
    request ids keep an episode on the server that has its prefix. With `seeded`, turns carry seeds: vLLM then
    draws row by row, which is slower.
    """

    def __init__(
        self, client: Any, codec: Codec, sampling: Mapping[str, Any], *, capacity: int, seeded: bool = False
    ) -> None:
        self.codec = codec
        self._client = client
        self._sampling = dict(sampling)
        self._capacity = capacity
        self._seeded = seeded
        self._request_id = uuid4().hex
        self.weights: set[int] = set()
        """The training steps whose weights sampled a turn, as the servers report them."""

    def refresh(self) -> None:
        """See `Sampler`; verl's trainer gives the servers new weights."""

    def close(self) -> None:
        """See `Sampler`; the servers are verl's."""

    @asynccontextmanager
    async def session(self, seed: str) -> AsyncIterator[WholeContext]:
        """See `Sampler`."""
        yield WholeContext(seed, self._capacity, self._turn)

    async def _turn(self, context: Context, max_tokens: int, seed: int) -> Sampled:
        output = await self._client.generate(
            request_id=self._request_id,
            prompt_ids=flat(context),
            sampling_params=self._sampling
            | {
                "max_tokens": max_tokens,
                "stop": list(STOP_STRINGS),
                "include_stop_str_in_output": True,
                "skip_special_tokens": False,
                "ignore_eos": True,  # the end tokens are the codec's, whatever the model's files say
                "stop_token_ids": sorted(self.codec.eos_token_ids),
            }
            | ({"seed": seed} if self._seeded else {}),
        )
        if (step := output.extra_fields.get("global_steps")) is not None:
            self.weights.add(step)
        return self._cut(output, max_tokens)

    def _cut(self, output: Any, max_tokens: int) -> Sampled:
        """The turn in a server's output, ended where every sampler ends it."""
        ids = list(output.token_ids)
        logprobs = None if output.log_probs is None else list(output.log_probs)
        if logprobs is not None and len(logprobs) != len(ids):
            raise RuntimeError(f"the server gave {len(logprobs)} log-probabilities for {len(ids)} tokens")
        for count in range(1, len(ids) + 1):
            if finish := turn_end(ids[:count], max_tokens, self.codec):
                return Sampled(ids[:count], logprobs and logprobs[:count], self.codec.decode(ids[:count]), finish)
        raise RuntimeError(
            f"the server ended a turn after {len(ids)} of {max_tokens} tokens ({output.stop_reason}) "
            "with neither a closed tag nor an end token"
        )
