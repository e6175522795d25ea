"""`tspo serve` as a user starts it."""

import os
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx

from tspo.cli import main
from tspo.datasets.corpus import Document
from tspo.retrieval.build_index import build_bm25_index

COMMAND = [sys.executable, "-c", "import sys; from tspo.cli import main; sys.exit(main())", "serve"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "animals"
    corpus = [Document("0", '"Cat"\nthe cat purrs'), Document("1", '"Dog"\nthe dog barks')]
    build_bm25_index(corpus, folder)
    return folder


@pytest.fixture
def serve(index):
    """Starts the command with these arguments; the process, and the address it says it listens on."""
    started = []

    def start(*arguments, **environment):
        process = subprocess.Popen(
            [*COMMAND, str(index), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        started.append(process)
        line = process.stdout.readline()
        assert line.startswith("listening on http://"), process.stderr.read()
        return process, line.removeprefix("listening on ").strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refused(capsys, *arguments):
    assert main(["serve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_from_a_folder_to_answers_and_to_the_end(serve):
    process, address = serve("--topk", "1", "--max-topk", "7")
    request = {"queries": ["what purrs"], "return_scores": True}
    reply = httpx.post(f"{address}/retrieve", json=request).json()
    (((hit,),),) = (reply["result"],)
    assert hit["document"] == {"id": "0", "contents": '"Cat"\nthe cat purrs'}
    assert hit["score"] > 0
    assert httpx.post(f"{address}/retrieve", json=request | {"topk": 8}).status_code == 422
    assert len(httpx.get(f"{address}/healthz").json()["index"]) == 64
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_token_of_the_environment(serve):
    _, address = serve("--host", "0.0.0.0", TSPO_RETRIEVER_TOKEN="secret")
    address = address.replace("0.0.0.0", "127.0.0.1")
    request = {"queries": ["dog"]}
    assert httpx.post(f"{address}/retrieve", json=request).status_code == 401
    allowed = httpx.post(f"{address}/retrieve", json=request, headers={"Authorization": "Bearer secret"})
    assert allowed.status_code == 200


def test_the_token_of_a_file_and_no_token_at_all(serve, tmp_path):
    (tmp_path / "token").write_text("from-a-file\n")
    _, address = serve("--token-file", str(tmp_path / "token"), TSPO_RETRIEVER_TOKEN="secret")
    headers = {"Authorization": "Bearer from-a-file"}
    assert httpx.post(f"{address}/retrieve", json={"queries": ["dog"]}, headers=headers).status_code == 200
    _, address = serve("--no-token", TSPO_RETRIEVER_TOKEN="secret")
    assert httpx.post(f"{address}/retrieve", json={"queries": ["dog"]}).status_code == 200


def test_others_are_let_in_only_when_that_is_said(index, capsys, monkeypatch):
    monkeypatch.delenv("TSPO_RETRIEVER_TOKEN", raising=False)
    line = refused(capsys, index, "--host", "0.0.0.0", "--port", 0)
    assert "others could search without a token" in line
    assert "--no-token" in line


def test_a_port_that_is_taken(index, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: cannot listen here" in refused(capsys, index, "--port", port)


def test_a_folder_that_is_no_index(tmp_path, capsys):
    assert str(tmp_path) in refused(capsys, tmp_path, "--port", 0)
    assert "nowhere" in refused(capsys, tmp_path / "nowhere", "--port", 0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--topk", "0"], "top k is 0"),
        (["--topk", "101"], "from 1 to 100"),
        (["--max-queries", "-1"], "limit of queries is -1"),
        (["--max-waiting", "10"], "10 queries may wait"),
        (["--timeout", "nan"], "limit of seconds is nan"),
        (["--token-file", "no/such/file"], "no/such/file: the token cannot be read"),
    ],
)
def test_bad_options(index, capsys, arguments, reason):
    assert reason in refused(capsys, index, "--port", 0, *arguments)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", "é".encode(), b"\xff"])
def test_a_file_without_a_token(index, capsys, tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    assert "holds no token" in refused(capsys, index, "--port", 0, "--token-file", tmp_path / "token")
