import importlib.util
import json

import pytest

from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.build_index import build_bm25_index
from tspo.retrieval.open_index import open_index

CORPUS = [
    Document("d0", '"Paris"\nparis capital of france'),
    Document("d1", '"Rome"\nrome capital of italy'),
    Document("d2", '"Music"\nmusic painter'),
]


@pytest.fixture
def bm25(tmp_path):
    build_bm25_index(CORPUS, tmp_path / "bm25")
    return tmp_path / "bm25"


def test_an_index_of_words(bm25):
    retriever = open_index(str(bm25), checksums=True)
    assert isinstance(retriever, BM25Retriever)
    assert retriever.search(["rome"], 3) == BM25Retriever.load(bm25).search(["rome"], 3)


def test_checksums_see_what_sizes_do_not(bm25):
    path = bm25 / "passages.jsonl"
    path.write_bytes(path.read_bytes().replace(b"rome", b"oslo"))
    assert "oslo" in open_index(bm25).search(["rome"], 1)[0][0].contents
    with pytest.raises(BadInput, match=r"passages\.jsonl: its contents"):
        open_index(bm25, checksums=True)


def test_an_unknown_kind_and_no_index_are_refused(bm25, tmp_path):
    manifest = json.loads((bm25 / "manifest.json").read_text())
    (bm25 / "manifest.json").write_text(json.dumps(manifest | {"kind": "grep"}))
    with pytest.raises(BadInput, match="'grep' is not known"):
        open_index(bm25)
    with pytest.raises(BadInput, match="not a whole index"):
        open_index(tmp_path / "none")


def test_what_is_not_installed_is_named(bm25, monkeypatch):
    manifest = json.loads((bm25 / "manifest.json").read_text())
    (bm25 / "manifest.json").write_text(json.dumps(manifest | {"kind": "dense"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs faiss-cpu; pip install 'tspo\[dense\]'"):
        open_index(bm25)


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    pytest.importorskip("faiss")
    from tspo.retrieval.encoder import TextEncoder, encoder_settings

    return TextEncoder(encoder_settings(tiny_bert(), max_tokens=16))


def test_a_hybrid_is_the_fusion_of_both_parts(tmp_path, encoder):
    from tspo.retrieval.build_index import build_dense_index, build_hybrid_index
    from tspo.retrieval.hybrid import HybridRetriever

    build_hybrid_index(CORPUS, tmp_path / "hybrid", encoder, "exact")
    build_bm25_index(CORPUS, tmp_path / "bm25")
    build_dense_index(CORPUS, tmp_path / "dense", encoder, "exact")
    hybrid, *parts = (open_index(tmp_path / kind, checksums=True) for kind in ("hybrid", "bm25", "dense"))
    queries = ["rome", "capital of france", "", "unheard"]
    assert hybrid.search(queries, 3) == HybridRetriever(parts).search(queries, 3)
    assert hybrid.search(["rome"], 1)[0]
    # the passages are there once
    assert len(list((tmp_path / "hybrid").glob("passages.jsonl"))) == 1


def test_a_hybrid_without_one_of_its_parts_is_refused(tmp_path, encoder):
    from tspo.retrieval.build_index import build_hybrid_index

    build_hybrid_index(CORPUS, tmp_path / "index", encoder, "exact")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    for part in ("bm25", "dense"):
        settings = {name: value for name, value in manifest["settings"].items() if name != part}
        (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest | {"settings": settings}))
        with pytest.raises(BadInput, match="not a whole index"):
            open_index(tmp_path / "index")


def test_a_reranker_orders_what_is_found(bm25, tiny_bert):
    pytest.importorskip("faiss")
    from tspo.retrieval.rerank import CrossEncoder

    model = tiny_bert("BertForSequenceClassification", num_labels=1)
    (found,) = open_index(bm25, reranker=model).search(["capital"], 3)
    scores = CrossEncoder(model).scores([("capital", document.contents) for document in CORPUS[:2]])
    assert {passage.id: passage.score for passage in found} == pytest.approx({"d0": scores[0], "d1": scores[1]})
    assert found[0].score >= found[1].score
