import subprocess
import sys

import numpy as np
import pytest

from tspo.errors import BadInput

pytest.importorskip("faiss")

from tspo.retrieval.vector_store import MODES, build_store, check_mode, open_store, vectors_file

SIZE, DIMENSIONS = 12_000, 32


def clustered(size, dimensions, seed=0):
    """Vectors of length one around 300 centres, and queries near some of them."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((300, dimensions))
    vectors = centres[generator.integers(0, 300, size)] + 0.6 * generator.standard_normal((size, dimensions))
    queries = vectors[generator.choice(size, 200)] + 0.2 * generator.standard_normal((200, dimensions))
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (vectors, queries))


def build(folder, mode, vectors):
    folder.mkdir()
    np.save(vectors_file(folder), vectors)
    build_store(folder, mode)
    return folder


@pytest.fixture(scope="module")
def data():
    return clustered(SIZE, DIMENSIONS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, data):
    parent = tmp_path_factory.mktemp("stores")
    return {mode: build(parent / mode, mode, data[0]) for mode in MODES}


def exact(vectors, queries, top_k):
    products = queries @ vectors.T
    places = np.argsort(-products, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(products, places, 1), places


def recall(places, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(places.tolist(), expected.tolist(), strict=True)])


def test_exact_search_is_exact(folders, data):
    vectors, queries = data
    scores, places = open_store(folders["exact"], "exact").search(queries, 7)
    expected_scores, expected = exact(vectors, queries, 7)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


@pytest.mark.parametrize("mode", ["int8", "hnsw", "ivf-pq"])
def test_approximate_search_finds_95_of_100(folders, data, mode):
    vectors, queries = data
    store = open_store(folders[mode], mode)
    assert (store.size, store.dimensions) == (SIZE, DIMENSIONS)
    scores, places = store.search(queries, 3)
    expected_scores, expected = exact(vectors, queries, 3)
    assert recall(places, expected) >= 0.95
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, expected_scores, atol=0.05)


def test_what_is_searched_is_a_quarter_of_the_vectors_or_less(folders, data):
    flat = data[0].nbytes
    sizes = {mode: (folders[mode] / "vectors.faiss").stat().st_size for mode in ("int8", "ivf-pq")}
    assert sizes["int8"] <= 0.25 * flat + 4096
    assert sizes["ivf-pq"] <= 0.25 * flat
    assert not vectors_file(folders["int8"]).exists()


@pytest.mark.parametrize("mode", MODES)
def test_more_than_there_is_gives_all_there_is(tmp_path, mode):
    size = 10_000 if mode == "ivf-pq" else 40
    vectors, queries = clustered(size, 8)
    store = open_store(build(tmp_path / "store", mode, vectors), mode)
    scores, places = store.search(queries[:2], 10**9)
    assert scores.shape == places.shape == (2, size)
    found = [set(row[row >= 0].tolist()) for row in places]
    assert all(row <= set(range(size)) for row in found)
    if mode in ("exact", "int8"):
        assert found == [set(range(size))] * 2


@pytest.mark.parametrize("mode", ["exact", "int8", "hnsw"])
def test_one_vector_is_enough(tmp_path, mode):
    vectors, queries = clustered(1, 8)
    scores, places = open_store(build(tmp_path / "store", mode, vectors), mode).search(queries[:3], 5)
    assert places.tolist() == [[0]] * 3
    np.testing.assert_allclose(scores, queries[:3] @ vectors.T, atol=1e-5)


def test_equal_vectors_are_in_the_order_of_the_corpus(tmp_path):
    vectors = np.repeat(np.eye(8, dtype=np.float32)[:2], 5, axis=0)
    store = open_store(build(tmp_path / "store", "exact", vectors), "exact")
    assert store.search(vectors[:1], 10)[1].tolist() == [list(range(10))]


def test_too_few_vectors_for_a_mode_and_unknown_modes_are_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"at least 10,000 passages, here are 40; choose int8"):
        build(tmp_path / "store", "ivf-pq", clustered(40, 8)[0])
    with pytest.raises(BadInput, match="choose one of: exact, int8, hnsw, ivf-pq"):
        check_mode("flat")


@pytest.mark.parametrize("mode", MODES)
def test_damaged_files_are_refused(tmp_path, folders, mode):
    import shutil

    for path in folders[mode].iterdir():
        for damage in ("lost", "cut", "noise"):
            broken = tmp_path / f"{path.name}-{damage}"
            shutil.copytree(folders[mode], broken)
            if damage == "lost":
                (broken / path.name).unlink()
            else:
                whole = path.read_bytes()
                (broken / path.name).write_bytes(whole[:100] if damage == "cut" else b"\xff" * 4096)
            with pytest.raises(BadInput, match="not a whole index") as caught:
                open_store(broken, mode)
            assert "\n" not in str(caught.value)


MEMORY = """
import sys, pathlib
import numpy as np
from tspo.retrieval.vector_store import open_store
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024
query = np.ones((1, 64), dtype=np.float32)
open_store(pathlib.Path(sys.argv[3]), sys.argv[2]).search(query, 3)
before = anonymous()
store = open_store(pathlib.Path(sys.argv[1]), sys.argv[2])
store.search(query, 3)
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells a process's memory otherwise")
@pytest.mark.parametrize("mode", ["exact", "int8", "hnsw", pytest.param("ivf-pq", marks=pytest.mark.slow)])
def test_an_open_store_is_a_map_of_its_files(tmp_path, mode):
    vectors = np.random.default_rng(0).standard_normal((30_000 if mode != "hnsw" else 12_000, 64)).astype(np.float32)
    folder = build(tmp_path / "store", mode, vectors)
    build(tmp_path / "warm", mode, vectors[:10_000])
    command = [sys.executable, "-c", MEMORY, str(folder), mode, str(tmp_path / "warm")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    searched = max(path.stat().st_size for path in folder.iterdir())
    assert int(result.stdout) < 0.3 * searched
