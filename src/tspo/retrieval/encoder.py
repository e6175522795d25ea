"""Texts as vectors: a transformer's token states, averaged and of length one, as E5 and MiniLM have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file, logging

from tspo.errors import BadInput

DEFAULT_ENCODER = "intfloat/e5-base-v2"
MAX_TOKENS = 256

# a text's end is cut off before it is split into tokens: a query of a megabyte must not cost a second
_CHARACTERS_A_TOKEN = 40


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What texts are encoded with: a model of the hub or in a folder, what stands before texts, where they are cut."""

    model: str
    query_prefix: str
    passage_prefix: str
    max_tokens: int = MAX_TOKENS


def encoder_settings(
    model: str, query_prefix: str | None = None, passage_prefix: str | None = None, max_tokens: int = MAX_TOKENS
) -> EncoderSettings:
    """The settings for a model; prefixes that are not given are E5's for a model named so, and empty for others."""
    folder = Path(model).expanduser()
    is_e5 = "e5" in folder.name.lower().split("-")
    return EncoderSettings(
        model=str(folder.resolve()) if folder.is_dir() else model,
        query_prefix=("query: " if is_e5 else "") if query_prefix is None else query_prefix,
        passage_prefix=("passage: " if is_e5 else "") if passage_prefix is None else passage_prefix,
        max_tokens=max_tokens,
    )


class TextEncoder:
    """Encodes queries and passages; one thread may use it at a time."""

    def __init__(self, settings: EncoderSettings, batch_size: int = 64, dtype: torch.dtype | None = None) -> None:
        """Load the model, on a GPU if there is one; raises BadInput where it cannot be loaded or used.

        `dtype` is that of its weights; None: float16 on a GPU, bfloat16 on a CPU that multiplies it, else float32.
        """
        if batch_size < 1:
            raise BadInput(f"batches of {batch_size} texts: expected at least 1")
        self.settings = settings
        self._batch_size = batch_size
        self._tokenizer, self._model = load_encoder_model(AutoModel, settings.model, dtype or _quick_dtype())
        _check_pooling(settings.model)
        limit = most_tokens(self._tokenizer, self._model)
        if not 8 <= settings.max_tokens <= limit:
            raise BadInput(f"encoder {settings.model!r}: {settings.max_tokens} tokens a text; it takes 8 to {limit}")

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._model.config.hidden_size)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length one, (queries, dimensions)."""
        return self._encode([self.settings.query_prefix + query for query in queries])

    def encode_passages(self, passages: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length one, (passages, dimensions)."""
        return self._encode([self.settings.passage_prefix + passage for passage in passages])

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        encoded = token_batches(
            self._tokenizer, [(text,) for text in texts], self.settings.max_tokens, self._batch_size
        )
        for places, tokens in encoded:
            tokens = tokens.to(self._model.device)
            states = self._model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            vectors[places] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return vectors


def token_batches(
    tokenizer: Any, texts: Sequence[tuple[str, ...]], max_tokens: int, batch_size: int
) -> Iterator[tuple[list[int], Any]]:
    """Padded batches of texts (or pairs) of like length, the longest first, each with its texts' places."""
    if not texts:
        return
    limit = max_tokens * _CHARACTERS_A_TOKEN
    columns = [[_valid(text[:limit]) for text in column] for column in zip(*texts, strict=True)]
    tokens = tokenizer(*columns, truncation=True, max_length=max_tokens)
    order = sorted(range(len(texts)), key=lambda place: -len(tokens["input_ids"][place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = {name: [values[place] for place in places] for name, values in tokens.items()}
        yield places, tokenizer.pad(batch, return_tensors="pt")


def load_encoder_model(kind: Any, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A tokenizer and a model of an Auto class of transformers, on a GPU if there is one.

    Raises BadInput in one line where they cannot be loaded.
    """
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise BadInput(f"encoder {name!r}: there is no such folder; say where the model lies with --encoder")
    logging.disable_progress_bar()  # transformers would draw one in the middle of ours
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # only safetensors: other files of weights run code
        model = kind.from_pretrained(name, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except Exception as error:  # what a damaged file raises depends on its format
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadInput(
            f"encoder {name!r}: could not be loaded ({reason}); "
            "name a folder with a saved model, or a model of a hub that can be reached from here"
        ) from None
    finally:
        logging.enable_progress_bar()
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _quick_dtype() -> torch.dtype:
    """What the machine multiplies fastest; means and lengths are taken in float32 all the same."""
    if torch.cuda.is_available():
        return torch.float16
    cpu = torch.cpu.get_capabilities()
    return torch.bfloat16 if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else torch.float32


def most_tokens(tokenizer: Any, model: Any) -> int:
    """How many tokens of a text a model can take."""
    return int(min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 1 << 20))


def _valid(text: str) -> str:
    """The text with a question mark for half of a surrogate pair, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _check_pooling(name: str) -> None:
    """Raise BadInput where sentence-transformers' settings say that the model's vectors are no means."""
    try:
        path = cached_file(name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
        pooling = json.loads(Path(path).read_bytes()) if path else {}
    except (OSError, ValueError):
        return
    others = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True]
    if others and others != ["pooling_mode_mean_tokens"]:
        raise BadInput(f"encoder {name!r}: pools by {others[0]}; only means of all tokens are supported")
