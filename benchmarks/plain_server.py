"""The retrieval server that is measured against: flat FAISS behind a plain FastAPI handler, as Search-R1 has it.

python benchmarks/plain_server.py VECTORS.npy CORPUS.jsonl ENCODER PORT
"""

from __future__ import annotations

import sys
from typing import Any

import datasets
import faiss
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModel, AutoTokenizer

vectors, corpus_path, encoder, port = sys.argv[1:]
flat = faiss.IndexFlatIP(np.load(vectors, mmap_mode="r").shape[1])
flat.add(np.load(vectors))
corpus = datasets.load_dataset("json", data_files=corpus_path, split="train")
tokenizer = AutoTokenizer.from_pretrained(encoder)
model = AutoModel.from_pretrained(encoder).eval()
app = FastAPI()


class Query(BaseModel):
    """Search-R1's request."""

    queries: list[str]
    topk: int | None = None
    return_scores: bool = False


@torch.no_grad()
def encode(queries: list[str]) -> Any:
    """Means of token states, of length one."""
    tokens = tokenizer(queries, max_length=256, padding=True, truncation=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    states = model(**tokens).last_hidden_state.masked_fill(~mask[..., None].bool(), 0.0)
    means = states.sum(dim=1) / mask.sum(dim=1)[..., None]
    return torch.nn.functional.normalize(means, dim=-1).numpy()


@app.post("/retrieve")
def retrieve(request: Query) -> dict[str, Any]:
    """Encode, search, look up; every request for itself, in a thread of FastAPI's pool."""
    scores, places = flat.search(encode(request.queries), request.topk or 3)
    found = []
    for row_scores, row_places in zip(scores.tolist(), places.tolist(), strict=True):
        documents = [corpus[place] for place in row_places]
        if request.return_scores:
            found.append([{"document": d, "score": s} for d, s in zip(documents, row_scores, strict=True)])
        else:
            found.append(documents)
    return {"result": found}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
