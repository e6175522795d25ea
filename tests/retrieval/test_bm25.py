import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN

from tspo.datasets.corpus import Document, read_corpus
from tspo.errors import BadInput
from tspo.retrieval import bm25
from tspo.retrieval.bm25 import SETTINGS, BM25Retriever, cached_bm25
from tspo.retrieval.build_index import build_bm25_index
from tspo.scripts import in_pairs, word_pattern

CORPUS = [
    Document("d0", '"Rome"\nRome is the capital of Italy.'),
    Document("d1", '"Paris"\nParis is the capital of France.'),
    Document("d2", '"E. B. White"\nE. B. White wrote Stuart Little.'),
    Document("d3", '"Paris"\nParis is the capital of France.'),
    Document("d4", '"Sławomir"\nPurkyně lived in Praha; \ud800 is half a pair.'),
]


def ids(passages):
    return [passage.id for passage in passages]


def write_corpus(path, documents=CORPUS):
    path.write_text("".join(json.dumps({"id": d.id, "contents": d.contents}) + "\n" for d in documents))
    return path


def plain_bm25(documents, query, k1=SETTINGS["k1"], b=SETTINGS["b"]):
    """Lucene's BM25, word by word."""

    def tokens(text):
        return [word for word in re.findall(r"\w+", text.lower()) if word not in STOPWORDS_EN]

    texts = [tokens(document.contents) for document in documents]
    mean_length = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in tokens(query):
            having = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            count = Counter(text)[word]
            score += idf * count / (count + k1 * (1 - b + b * len(text) / mean_length))
        scores.append(score)
    return np.array(scores)


def assert_ranked_as_plain_bm25(retriever, documents, query, top_k):
    scores = plain_bm25(documents, query)
    places = {document.id: place for place, document in enumerate(documents)}
    passages = retriever.search([query], top_k)[0]
    assert len(passages) == min(top_k, int((scores > 0).sum()))
    np.testing.assert_allclose([p.score for p in passages], [scores[places[p.id]] for p in passages], rtol=1e-5)
    np.testing.assert_allclose([p.score for p in passages], np.sort(scores)[::-1][: len(passages)], rtol=1e-5)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "index"
    build_bm25_index(CORPUS, folder)
    return folder


@pytest.fixture(params=["built", "loaded"])
def retriever(request, folder):
    return BM25Retriever.build(CORPUS) if request.param == "built" else BM25Retriever.load(folder)


def test_the_best_match_comes_first_and_only_matches_come(retriever):
    rome, white = retriever.search(["capital of Italy", "Who is E. B. White?"], top_k=10)
    assert ids(rome) == ["d0", "d1", "d3"]
    assert rome[0].contents == CORPUS[0].contents
    assert rome[0].score > rome[1].score > 0
    assert ids(white) == ["d2"]


def test_ties_go_to_the_earlier_document_also_at_the_cut(retriever):
    assert ids(retriever.search(["paris"], 1)[0]) == ["d1"]
    assert ids(retriever.search(["paris"], 2)[0]) == ["d1", "d3"]


def test_many_ties_at_the_cut_are_in_corpus_order():
    documents = [Document(str(n), "same words" if n % 3 else "same words words") for n in range(500)]
    found = ids(BM25Retriever.build(documents).search(["words"], 200)[0])
    best = [str(n) for n in range(500) if n % 3 == 0]
    assert found == best + [str(n) for n in range(500) if n % 3][: 200 - len(best)]


@pytest.mark.parametrize("query", ["", "   ", "the of is", "?!", "unheard-of: zzz"])
def test_a_query_without_a_known_word_finds_nothing(retriever, query):
    assert retriever.search([query], 3) == [[]]


def test_no_queries_no_results(retriever):
    assert retriever.search([], 3) == []


def test_batching_changes_nothing(retriever):
    queries = ["paris", "", "capital of italy", "paris"]
    assert retriever.search(queries, 2) == [retriever.search([query], 2)[0] for query in queries]


def test_any_text_survives_the_index(retriever):
    assert retriever.search(["purkyně"], 1)[0][0].contents == CORPUS[4].contents


def test_top_k_must_be_positive(retriever):
    with pytest.raises(ValueError, match="top_k"):
        retriever.search(["paris"], 0)


@pytest.mark.parametrize("query", ["capital", "paris paris italy", "white praha capital", "E. B. White wrote it"])
@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_scores_are_those_of_plain_bm25(retriever, query, top_k):
    assert_ranked_as_plain_bm25(retriever, CORPUS, query, top_k)


def test_scores_are_those_of_plain_bm25_on_random_text():
    generator = np.random.default_rng(0)
    words = [f"w{n}" for n in range(40)]
    documents = [Document(str(n), " ".join(generator.choice(words, generator.integers(0, 30)))) for n in range(120)]
    retriever = BM25Retriever.build(documents)
    for _ in range(20):
        assert_ranked_as_plain_bm25(retriever, documents, " ".join(generator.choice(words, 5)), 7)


def test_an_empty_corpus_is_refused():
    with pytest.raises(BadInput, match="no documents"):
        BM25Retriever.build([])


def test_a_corpus_without_any_token_finds_nothing(tmp_path):
    build_bm25_index([Document("a", "the"), Document("b", "")], tmp_path / "index")
    assert BM25Retriever.load(tmp_path / "index").search(["the", "word"], 2) == [[], []]


def test_building_and_searching_are_quiet(tmp_path, capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        build_bm25_index(CORPUS, tmp_path / "index")
        BM25Retriever.load(tmp_path / "index").search(["paris", ""], 2)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_same_corpus_gives_the_same_index(folder, tmp_path):
    build_bm25_index(CORPUS, tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_manifest_says_what_the_index_is(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["passages"] == 5
    assert manifest["settings"]["k1"] == 1.2
    assert manifest["kind"] == "bm25"
    assert manifest["libraries"]["bm25s"]
    assert len(manifest["corpus_sha256"]) == 64


def test_saving_replaces_an_index_and_leaves_nothing_beside_it(folder):
    build_bm25_index(CORPUS[:1], folder)
    assert len(BM25Retriever.load(folder)) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_an_open_index_outlives_its_replacement(folder):
    retriever = BM25Retriever.load(folder)
    build_bm25_index(CORPUS[:1], folder)
    assert ids(retriever.search(["paris"], 5)[0]) == ["d1", "d3"]


def test_others_may_read_the_index(folder):
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch], ids=["missing", "empty", "a file"])
def test_what_is_no_index_is_refused(tmp_path, make):
    path = tmp_path / "index"
    make(path)
    with pytest.raises(BadInput, match="build it again with") as caught:
        BM25Retriever.load(path)
    assert str(path) in str(caught.value)


def test_an_index_cut_short_anywhere_is_refused(folder, tmp_path):
    for path in sorted(folder.iterdir()):
        for size in (None, 0, path.stat().st_size // 2, path.stat().st_size - 1):
            broken = tmp_path / "broken"
            shutil.copytree(folder, broken)
            if size is None:
                (broken / path.name).unlink()
            else:
                os.truncate(broken / path.name, size)
            if (path.name, size) == ("manifest.json", path.stat().st_size - 1):
                BM25Retriever.load(broken)  # only the last line break is gone
            else:
                with pytest.raises(BadInput, match="build it again"):
                    BM25Retriever.load(broken)
            shutil.rmtree(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"settings": SETTINGS | {"k1": 9.0}},
        {"passages": 4},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_refused(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BadInput, match="build it again"):
        BM25Retriever.load(folder)


def test_scrambled_files_of_the_right_size_are_refused(folder):
    for name in ("vocab.index.json", "passages.offsets.npy"):
        path, whole = folder / name, (folder / name).read_bytes()
        path.write_bytes(b"\xff" * len(whole))
        with pytest.raises(BadInput, match="build it again"):
            BM25Retriever.load(folder)
        path.write_bytes(whole)
    BM25Retriever.load(folder)


def test_the_cache_builds_once(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    first = cached_bm25(corpus, tmp_path / "a" / "cache")
    monkeypatch.setattr(bm25, "build_bm25_index", None)
    second = cached_bm25(str(corpus), tmp_path / "a" / "cache")
    assert first.search(["paris"], 2) == second.search(["paris"], 2) != [[]]


def test_another_corpus_is_another_index(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    assert len(cached_bm25(corpus, tmp_path / "cache")) == 5
    write_corpus(corpus, CORPUS[:2])
    assert len(cached_bm25(corpus, tmp_path / "cache")) == 2


def test_the_cache_mends_a_broken_index_and_clears_what_a_killed_process_left(tmp_path):
    corpus, cache = write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "cache"
    cached_bm25(corpus, cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "manifest.json").unlink()
    (cache / f".{folder.name}.abc.tspo-part").mkdir()
    assert len(cached_bm25(corpus, cache)) == 5
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_the_cache_names_a_missing_corpus_and_an_unusable_folder(tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl"):
        cached_bm25(tmp_path / "none.jsonl", tmp_path)
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    with pytest.raises(BadInput, match="cannot keep an index"):
        cached_bm25(corpus, corpus)


USE_CACHE = """
import sys
from tspo.retrieval.bm25 import cached_bm25
print("ready", flush=True)
sys.stdin.readline()
print(*[passage.id for passage in cached_bm25(*sys.argv[1:]).search(["paris"], 2)[0]])
"""

BUILD_FOR_EVER = """
import sys
from tspo.datasets.corpus import read_corpus
from tspo.retrieval.build_index import build_bm25_index
print("ready", flush=True)
while True:
    build_bm25_index(read_corpus(sys.argv[1]), sys.argv[2])
"""


def start(program, *arguments):
    """A Python process that has said it is ready."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_may_share_a_cache(tmp_path):
    corpus, cache = write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "cache"
    processes = [start(USE_CACHE, corpus, cache) for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["d1 d3\n"] * 4
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"]


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_index_or_none(tmp_path):
    corpus, folder = write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "index"
    sizes = []
    for delay in np.linspace(0.01, 0.1, 10):
        process = start(BUILD_FOR_EVER, corpus, folder)
        time.sleep(delay)
        process.kill()
        process.communicate()
        if folder.exists():
            sizes.append(len(BM25Retriever.load(folder)))
    assert sizes
    assert set(sizes) == {5}


def is_of_one_script(text):
    """Whether its words are what a plain regex finds."""
    return re.findall(word_pattern(), in_pairs(text)) == re.findall(r"\b\w+\b", text)


def test_the_real_corpus_is_searched_as_plain_bm25_would(wiki_qa):
    documents = [one for one in read_corpus(wiki_qa / "corpus.jsonl") if is_of_one_script(one.contents)][:300]
    retriever = BM25Retriever.build(documents)
    for document in documents[::60]:
        assert_ranked_as_plain_bm25(retriever, documents, document.title, 5)


def test_a_title_finds_its_passage_in_the_real_corpus(wiki_qa, tmp_path):
    retriever = cached_bm25(wiki_qa / "corpus.jsonl", tmp_path)
    titles = ["Philip Carlo", "Women's National Basketball League", "Prague astronomical clock"]
    for title, passages in zip(titles, retriever.search(titles, 3), strict=True):
        assert any(passage.contents.startswith(f'"{title}"\n') for passage in passages)


SCRIPTS = {
    "zh": ("挪威的首都是奥斯陆，位于该国的东南部。", "奥斯陆"),
    "ja": ("ノルウェーの首都はオスロである。", "オスロ"),
    "th": ("เมืองหลวงของประเทศไทยคือกรุงเทพมหานคร", "กรุงเทพ"),
    "ko": ("노르웨이의수도는오슬로이다", "오슬로"),
    "hi": ("मेरा दिल यहाँ है", "दिल"),
    "ar": ("كَتَبَ مُحَمَّدٌ رِسالة", "محمد"),
    "nfd": ("Cafe\u0301 Nord", "Café"),
}
DISTRACTORS = ["挪威的森林", "京都の寺", "ประเทศลาว", "서울은 도시", "दल बदल", "كاتب", "Cafeteria Nord"]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
def test_words_of_every_script_are_found(script, stored, tmp_path):
    contents = [*DISTRACTORS, *(text for text, _ in SCRIPTS.values())]
    documents = [Document(str(place), f'"t"\n{text}') for place, text in enumerate(contents)]
    if stored:
        build_bm25_index(documents, tmp_path / "index")
        retriever = BM25Retriever.load(tmp_path / "index")
    else:
        retriever = BM25Retriever.build(documents)
    (found,) = retriever.search([SCRIPTS[script][1]], 3)
    assert [passage.contents for passage in found][:1] == [f'"t"\n{SCRIPTS[script][0]}']


def test_the_analysis_is_recorded_and_another_one_is_refused(tmp_path):
    build_bm25_index([Document("0", '"t"\nx')], tmp_path / "index")
    manifest = tmp_path / "index" / "manifest.json"
    text = manifest.read_text()
    assert '"analysis": "unicode-1"' in text
    manifest.write_text(text.replace("unicode-1", "unicode-0"))
    with pytest.raises(BadInput, match="made by another version of tspo"):
        BM25Retriever.load(tmp_path / "index")
