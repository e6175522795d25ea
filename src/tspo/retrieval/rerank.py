"""A second look: a cross-encoder reads the query with each passage that a retriever found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import AutoModelForSequenceClassification

from tspo.errors import BadInput
from tspo.retrieval.base import Passage, Retriever
from tspo.retrieval.encoder import load_encoder_model, most_tokens, token_batches

_MAX_TOKENS = 512
_CANDIDATES = 30


class CrossEncoder:
    """A model that scores pairs of query and passage; one thread may use it at a time."""

    def __init__(self, model: str, batch_size: int = 32) -> None:
        """Load it, on a GPU if there is one; raises BadInput where it cannot be loaded or gives no one score."""
        # bfloat16's 8 bits would make scores tie
        dtype = torch.float16 if torch.cuda.is_available() else torch.float32
        self._tokenizer, self._model = load_encoder_model(AutoModelForSequenceClassification, model, dtype)
        if self._model.config.num_labels != 1:
            raise BadInput(f"reranker {model!r}: gives {self._model.config.num_labels} scores a pair; name one with 1")
        self._max_tokens = min(_MAX_TOKENS, most_tokens(self._tokenizer, self._model))
        self._batch_size = batch_size

    @torch.inference_mode()
    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The score of each (query, passage), more is better."""
        scores = [0.0] * len(pairs)
        for places, tokens in token_batches(self._tokenizer, pairs, self._max_tokens, self._batch_size):
            logits = self._model(**tokens.to(self._model.device)).logits[:, 0].float()
            for place, score in zip(places, logits.tolist(), strict=True):
                scores[place] = score
        return scores


class RerankedRetriever:
    """The best passages of a retriever in the order of a cross-encoder, with its scores."""

    def __init__(self, retriever: Retriever, cross_encoder: CrossEncoder, candidates: int = _CANDIDATES) -> None:
        self._retriever = retriever
        self._cross_encoder = cross_encoder
        self._candidates = candidates

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query at most `top_k` passages, best first, ties as the retriever has them."""
        found = self._retriever.search(queries, max(top_k, self._candidates))
        pairs = [(query, passage.contents) for query, row in zip(queries, found, strict=True) for passage in row]
        scores = iter(self._cross_encoder.scores(pairs))
        scored = [[replace(passage, score=next(scores)) for passage in row] for row in found]
        return [sorted(row, key=lambda passage: -passage.score)[:top_k] for row in scored]
