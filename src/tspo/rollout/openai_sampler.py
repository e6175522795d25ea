"""Sampling from an OpenAI-compatible server, to evaluate what it serves.

A turn is one call of /v1/completions with the whole context as token ids, or of /v1/chat/completions with what came
from outside as the user's messages and the turns as the assistant's. What comes back is a stranger's: it is checked,
cut by the rule of all samplers, and never becomes a special token by being written like one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from tspo.errors import BadInput
from tspo.protocol import STOP_STRINGS
from tspo.retrieval.base import RetrieverError, RetrieverGone
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.http_calls import HttpCalls, Malformed, Refused, checked_address, read_json
from tspo.rollout.codec import Codec
from tspo.rollout.sampler import GREEDY, Sampled, SamplingOptions
from tspo.rollout.turns import turn_end
from tspo.rollout.whole_context import Context, WholeContextSampler, flat

_PATIENCE = 60.0
"""Seconds without any answer after which a server counts as gone."""


class OpenAISampler(WholeContextSampler):
    """A `Sampler` on the model that the server at `url` (up to and with /v1) calls `model`.

    `rows` calls at most are under way, each of at most `timeout_seconds`, retries and all. With `chat` it is asked in
    messages, for servers that have no other way; the codec must leave the chat template to the server then. `body` adds
    fields to each request; one that is None is left out. Equal seeds sample equal texts where the server heeds seeds,
    and tokens are left out where it heeds top_k and min_p, as vLLM and SGLang do. Log-probabilities are as it reports
    them; None where it reports none, or no token ids.
    Raises BadInput for an address that is none and a key that is not there; so does a turn that gets no answer.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        url: str,
        model: str,
        rows: int,
        capacity: int,
        sampling: SamplingOptions = GREEDY,
        chat: bool = False,
        body: Mapping[str, Any] | None = None,
        api_key_variable: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        super().__init__(codec, rows=rows, capacity=capacity, sampling=sampling, name="openai")
        self._model = model
        self._chat = chat
        self._body = dict(body or {})
        self._address = checked_address(url)
        self._calls = HttpCalls(
            self._address,
            CallSettings(
                deadline=timeout_seconds,
                attempt=timeout_seconds,
                give_up_after=min(timeout_seconds, _PATIENCE),
                connections=rows,
                reply_bytes=16 * 2**20,
            ),
            headers={} if api_key_variable is None else {"Authorization": f"Bearer {_key(api_key_variable)}"},
            when_denied=f"put its key in {api_key_variable}"
            if api_key_variable
            else "name the variable of its key in rollout.server.api_key_variable",
            service="completions of this model",
            verb="sample",
        )

    def refresh(self) -> None:
        """See `Sampler`; what a server serves cannot be changed from here."""
        raise BadInput("rollout.sampler: openai cannot take over weights; train with transformers or vllm")

    def close(self) -> None:
        """See `Sampler`: closes the connections."""
        self._loop.wait(self._calls.close())
        self._loop.close()

    async def _turn(self, context: Context, max_tokens: int, seed: int) -> Sampled:
        body = {
            "model": self._model,
            "max_tokens": max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": seed,
            "stop": list(STOP_STRINGS),
            **(self._asked_in_messages(context) if self._chat else self._asked_in_tokens(context)),
            **self._body,
        }
        try:
            return await self._calls.call(
                "POST",
                f"{self._address}/{'chat/' if self._chat else ''}completions",
                lambda reply: read_completion(reply, max_tokens, self.codec),
                json={name: value for name, value in body.items() if value is not None},
            )
        except Refused as refused:
            raise BadInput(f"{self._address}: refused to sample a turn ({refused})") from None
        except (RetrieverError, RetrieverGone) as error:
            raise BadInput(str(error)) from None

    def _asked_in_tokens(self, context: Context) -> dict[str, Any]:
        return {
            "prompt": flat(context),
            "logprobs": 1,
            # Beyond OpenAI's own: vLLM and SGLang heed them, others pass over them.
            "top_k": self.sampling.top_k or -1,
            "min_p": self.sampling.min_p,
            "repetition_penalty": 1.0,
            "stop_token_ids": sorted(self.codec.eos_token_ids),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "return_token_ids": True,
        }

    def _asked_in_messages(self, context: Context) -> dict[str, Any]:
        # Text from outside holds no special token but the prompt's first; that one is the server's business.
        decode = self.codec.tokenizer.decode
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": decode(piece, skip_special_tokens=True)}
            for i, piece in enumerate(context)
        ]
        # Servers that know OpenAI's own fields alone refuse others: they are said where they are asked for.
        beyond = {"top_k": self.sampling.top_k, "min_p": self.sampling.min_p}
        return {"messages": messages, **{name: value for name, value in beyond.items() if value}}


def read_completion(reply: bytes, max_tokens: int, codec: Codec) -> Sampled:
    """The turn that a server's reply holds, cut where every sampler ends it.

    A reply without text (a reasoning parser whose tokens ran out), or that ended for a reason of the server's own
    (content_filter), is a turn that ended there. Raises Malformed for a reply of another form, and BadInput where the
    server cut the turn short of `max_tokens`.
    """
    content = read_json(reply)
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Malformed("a reply without its one choice")
    choice = choices[0]
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        raise Malformed("a reply that does not say why it finished")
    usage = content.get("usage")
    promised = usage.get("completion_tokens") if isinstance(usage, dict) else None
    token_ids, logprobs = _tokens(choice, promised, codec)
    for count in range(1, len(token_ids) + 1):
        if finish := turn_end(token_ids[:count], max_tokens, codec):
            kept = token_ids[:count]
            return Sampled(kept, logprobs and logprobs[:count], codec.decode(kept), finish)
    said = None if reason in ("stop", "length") else reason
    if not token_ids:
        said = said or f"{reason}, without text"
    elif reason == "length" and promised != max_tokens:
        raise BadInput(f"the server cut a turn at {len(token_ids)} tokens of {max_tokens}; raise its context length")
    return Sampled(token_ids, logprobs, codec.decode(token_ids), "length" if reason == "length" else "end", said)


def _tokens(choice: dict[str, Any], promised: Any, codec: Codec) -> tuple[list[int], list[float] | None]:
    """The token ids and their log-probabilities; those of the text, and None, where the server says no ids."""
    ids = choice.get("token_ids")
    if ids is None:
        message = choice.get("message")
        holder, field = (message, "content") if isinstance(message, dict) else (choice, "text")
        text = holder.get(field, "")
        if text is None:
            text = ""
        if not isinstance(text, str) or field not in holder:
            raise Malformed("a reply with neither token ids nor text")
        return codec.reported(_closed(text, choice)), None
    size = len(codec.tokenizer)
    if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < size for token in ids):
        raise Malformed("a reply with token ids that the tokenizer has not")
    if promised is not None and promised != len(ids):
        raise Malformed(f"a reply with {len(ids)} token ids for {promised} tokens")
    reported = choice.get("logprobs")
    values = reported.get("token_logprobs") if isinstance(reported, dict) else None
    if values is None:
        return ids, None
    if not isinstance(values, list) or len(values) != len(ids):
        raise Malformed("a reply with log-probabilities of other tokens than its own")
    if not all(type(value) in (int, float) and math.isfinite(value) and value <= 1e-3 for value in values):
        raise Malformed("a reply with log-probabilities that are none")
    return ids, [min(float(value), 0.0) for value in values]


def _closed(text: str, choice: dict[str, Any]) -> str:
    """`text` up to the tag that ended it; a tag that the server left out, as OpenAI's do, is put back."""
    ends = [at + len(stop) for stop in STOP_STRINGS if (at := text.find(stop)) >= 0]
    if ends:
        return text[: min(ends)]
    if choice["finish_reason"] != "stop":
        return text
    if (said := choice.get("stop_reason")) in STOP_STRINGS:
        return f"{text}{said}"
    opened = max(STOP_STRINGS, key=lambda stop: text.rfind(stop.replace("/", "")))
    return text + opened if opened.replace("/", "") in text else text


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise BadInput(f"rollout.server.api_key_variable: {variable} holds no key; export {variable}=...")
    return key
