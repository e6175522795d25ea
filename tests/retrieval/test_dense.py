import json
import shutil

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from tspo.datasets.corpus import Document, read_corpus
from tspo.errors import BadInput
from tspo.retrieval import dense
from tspo.retrieval.build_index import build_dense_index, build_hybrid_index
from tspo.retrieval.dense import DenseRetriever
from tspo.retrieval.encoder import TextEncoder, encoder_settings

CORPUS = [
    Document("d0", "paris capital of france"),
    Document("d1", "rome capital of italy"),
    Document("d2", "music"),
    Document("d3", "a b c d e f g h"),
    Document("d4", "the painter is the river"),
]


def ids(passages):
    return [passage.id for passage in passages]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return tiny_bert()


@pytest.fixture(scope="module")
def encoder(model):
    return TextEncoder(encoder_settings(model, max_tokens=16))


@pytest.fixture
def folder(tmp_path, encoder):
    build_dense_index(CORPUS, tmp_path / "index", encoder, "exact")
    return tmp_path / "index"


@pytest.mark.parametrize("mode", ["exact", "int8", "hnsw"])
def test_a_passage_is_nearest_to_itself(tmp_path, encoder, mode, monkeypatch):
    monkeypatch.setattr(dense, "_ENCODED_AT_ONCE", 2)
    build_dense_index(CORPUS, tmp_path / "index", encoder, mode)
    retriever = DenseRetriever.load(tmp_path / "index")
    assert len(retriever) == 5
    answers = retriever.search([document.contents for document in CORPUS], 5)
    for document, passages in zip(CORPUS, answers, strict=True):
        assert (passages[0].id, passages[0].contents) == (document.id, document.contents)
        assert passages[0].score == pytest.approx(1, abs=0.01)
        assert sorted(ids(passages)) == ["d0", "d1", "d2", "d3", "d4"]
        assert [p.score for p in passages] == sorted((p.score for p in passages), reverse=True)


def test_scores_are_inner_products(folder, encoder):
    products = encoder.encode_passages([d.contents for d in CORPUS]) @ encoder.encode_queries(["rome music"])[0]
    found = {passage.id: passage.score for passage in DenseRetriever.load(folder).search(["rome music"], 5)[0]}
    for document, product in zip(CORPUS, products, strict=True):
        assert found[document.id] == pytest.approx(product, abs=1e-5)


def test_blank_queries_find_nothing_and_shift_nothing(folder):
    retriever = DenseRetriever.load(folder)
    assert retriever.search([], 3) == []
    assert retriever.search(["", " \n"], 3) == [[], []]
    assert list(map(ids, retriever.search(["", "music", " "], 1))) == [[], ["d2"], []]


def test_any_top_k_from_one(folder):
    retriever = DenseRetriever.load(folder)
    assert [len(retriever.search(["rome"], top_k)[0]) for top_k in (1, 5, 10**9)] == [1, 5, 5]
    with pytest.raises(ValueError, match="top_k"):
        retriever.search(["rome"], 0)


def test_a_moved_encoder_is_named_and_another_one_is_refused(folder, model, tiny_bert, tmp_path):
    expected = DenseRetriever.load(folder).search(["rome"], 3)
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    assert DenseRetriever.load(folder, str(moved)).search(["rome"], 3) == expected
    for other in (tiny_bert(seed=1), tiny_bert(hidden_size=16)):
        with pytest.raises(BadInput, match="made with another encoder"):
            DenseRetriever.load(folder, other)
    with pytest.raises(BadInput, match="there is no such folder"):
        DenseRetriever.load(folder, str(tmp_path / "none"))


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"mode": "exact", "encoder": {"model": 3, "x": 1}}},
        {"settings": {"mode": "flat", "encoder": {}}},
        {"passages": 4},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_refused(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BadInput, match="build it again"):
        DenseRetriever.load(folder)


def test_vectors_of_another_number_are_refused(folder):
    shape = np.load(folder / "vectors.npy").shape
    np.save(folder / "vectors.npy", np.zeros((shape[0] - 1, shape[1]), dtype=np.float32))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["vectors.npy"]["bytes"] = (folder / "vectors.npy").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="disagree"):
        DenseRetriever.load(folder)


@pytest.mark.parametrize("build", [build_dense_index, build_hybrid_index])
def test_bad_builds_leave_nothing(tmp_path, encoder, build):
    with pytest.raises(BadInput, match="no documents"):
        build([], tmp_path / "index", encoder, "exact")
    with pytest.raises(BadInput, match="choose one of"):
        build(CORPUS, tmp_path / "index", encoder, "flat")
    with pytest.raises(BadInput, match="choose int8"):
        build(CORPUS, tmp_path / "index", encoder, "ivf-pq")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_with_totals(tmp_path, encoder):
    told = {}
    build_dense_index(
        CORPUS, tmp_path / "index", encoder, "int8", lambda p, done, total: told.update({p: (done, total)})
    )
    assert told["embedding"] == told["vectors"] == (5, 5)


def test_minilm_finds_what_shares_no_word(minilm, wiki_qa, tmp_path):
    documents = list(read_corpus(wiki_qa / "corpus.jsonl"))[:60]
    strange = Document("x", '"Feline"\nKittens sleep on the sofa.')
    build_dense_index([*documents, strange], tmp_path / "index", TextEncoder(encoder_settings(minilm)), "int8")
    retriever = DenseRetriever.load(tmp_path / "index")
    assert ids(retriever.search(["where do young cats rest?"], 1)[0]) == ["x"]
