import hashlib

import pytest

from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.build_index import build_bm25_index
from tspo.retrieval.places import identity_of, is_remote, open_place, open_remote

CAT = Document("0", '"Cat"\nthe cat purrs')


@pytest.mark.parametrize(
    "place", ["http://a:1", "https://a/retrieve", "searxng+http://a", "searxng+https://a", "serper://"]
)
def test_addresses_are_no_folders(place):
    assert is_remote(place)


@pytest.mark.parametrize("place", ["", "index", "./http://", "/tmp/serper:", "serper:", "searxng+ftp://a", "http:/a"])
def test_all_else_is_a_folder(place):
    assert not is_remote(place)


def test_an_index_folder_is_opened(tmp_path):
    build_bm25_index([CAT], tmp_path / "index")
    retriever = open_place(str(tmp_path / "index"))
    assert retriever.search(["purrs"], 1)[0][0].id == "0"


def test_a_folder_is_told_by_its_manifest(tmp_path):
    for name, document in (("one", CAT), ("same", CAT), ("other", Document("0", '"Cat"\nthe cat sleeps'))):
        build_bm25_index([document], tmp_path / name)
    identity = {
        name: identity_of(str(tmp_path / name), BM25Retriever.load(tmp_path / name))
        for name in ("one", "same", "other")
    }
    assert identity["one"] == hashlib.sha256((tmp_path / "one" / "manifest.json").read_bytes()).hexdigest()
    assert identity["one"] != identity["other"]
    with pytest.raises(BadInput, match="manifest cannot be read"):
        identity_of(str(tmp_path), BM25Retriever.build([CAT]))


def test_addresses_are_opened_by_what_they_are(monkeypatch):
    pytest.importorskip("httpx")
    from tspo.retrieval.client import HTTPRetriever
    from tspo.retrieval.web_search import SearxNGRetriever, SerperRetriever

    monkeypatch.setenv("SERPER_API_KEY", "key")
    for place, kind, address in (
        ("http://a:1/retrieve", HTTPRetriever, None),
        ("searxng+http://a:1", SearxNGRetriever, "http://a:1"),
        ("serper://", SerperRetriever, "https://google.serper.dev"),
    ):
        retriever = open_place(place)
        assert isinstance(retriever, kind)
        if address is not None:
            assert identity_of(place, retriever) == address


@pytest.mark.parametrize("option", [{"encoder": "e"}, {"reranker": "r"}, {"checksums": True}])
def test_what_is_for_folders_is_refused_elsewhere(option):
    with pytest.raises(BadInput, match=f"--{next(iter(option))} is for an index folder, not for http://a:1"):
        open_place("http://a:1", **option)


def test_serper_is_at_one_place():
    with pytest.raises(BadInput, match="say serper://"):
        open_remote("serper://elsewhere")


def test_without_httpx_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs httpx; pip install 'tspo\[serve\]'"):
        open_remote("http://a:1")
