import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from tspo.cli import main
from tspo.errors import BadInput
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.index_folder import read_manifest
from tspo.retrieval.open_index import open_index

COMMAND = [sys.executable, "-m", "tspo"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def write_corpus(path, size=50):
    with open(path, "w", encoding="utf-8") as stream:
        for n in range(size):
            text = " ".join(f"word{n * k % 101}" for k in range(30))
            stream.write(json.dumps({"id": n, "contents": f'"Title {n}"\n{text}'}) + "\n")
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl")


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_corpus_becomes_an_index(corpus, tmp_path, capsys):
    out = tmp_path / "index"
    assert main(["index", corpus, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert f"{out}: bm25 index of 50 passages, " in captured.out
    assert captured.err == ""
    assert BM25Retriever.load(out).search(["title 7"], 1)[0][0].id == "7"


def test_parquet_gives_the_same_index(corpus, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    with open(corpus) as stream:
        rows = [json.loads(line) for line in stream]
    columns = {name: [row[name] for row in rows] for name in ("id", "contents")}
    parquet.write_table(pyarrow.table(columns), tmp_path / "corpus.parquet")
    for name in ("corpus.jsonl", "corpus.parquet"):
        assert main(["index", str(tmp_path / name), "--out", str(tmp_path / name.replace(".", "-"))]) == 0
    first, second = (read_manifest(tmp_path / name) for name in ("corpus-jsonl", "corpus-parquet"))
    assert first == second


def test_searching_by_meaning_and_by_both(corpus, tmp_path, tiny_bert, capsys):
    pytest.importorskip("faiss")
    model = tiny_bert()
    for kind, mode in (("dense", "hnsw"), ("hybrid", None)):
        options = ["--retriever", kind, "--encoder", model, "--max-tokens", "32", "--batch", "7"]
        options += ["--mode", mode] if mode else []
        assert main(["index", corpus, "--out", str(tmp_path / kind), *options]) == 0
        assert f"{kind} index of 50 passages" in capsys.readouterr().out
        assert len(open_index(tmp_path / kind, checksums=True).search(["Title 3"], 4)[0]) == 4
    settings = read_manifest(tmp_path / "hybrid").settings["dense"]
    assert (settings["mode"], settings["encoder"]["max_tokens"]) == ("int8", 32)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 0, "contents": "again"}', "line 51: field 'id': '0' is taken"),
        ('{"id": 99}', "line 51: field 'contents' is missing"),
        ("not JSON", "line 51: not JSON"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left(corpus, tmp_path, line, message, capsys):
    with open(corpus, "a") as stream:
        stream.write(line + "\n")
    assert main(["index", corpus, "--out", str(tmp_path / "index")]) == 2
    assert message in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_folders_above_an_index_are_made(corpus, tmp_path):
    assert main(["index", corpus, "--out", str(tmp_path / "new" / "folder")]) == 0
    assert len(BM25Retriever.load(tmp_path / "new" / "folder")) == 50


def test_what_cannot_be_is_one_line(corpus, tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    out = str(tmp_path / "index")
    for arguments, message in (
        ([str(tmp_path / "none.jsonl"), "--out", out], "cannot be read"),
        ([str(tmp_path / "empty.jsonl"), "--out", out], "holds no documents"),
        ([corpus, "--out", str(tmp_path / "full")], "thesis.tex"),
        ([corpus, "--out", corpus], "is a file"),
        (
            [corpus, "--out", f"{corpus}/index"],
            "a file stands where a folder should",
        ),
        ([corpus, "--out", out, "--mode", "int8"], "--mode is for --retriever dense or hybrid"),
    ):
        assert main(["index", *arguments]) == 2
        assert message in one_line(capsys)
    assert not os.path.exists(out)


def test_a_mode_or_encoder_that_is_none_is_one_line(corpus, tmp_path, capsys):
    pytest.importorskip("faiss")
    pytest.importorskip("transformers")
    base = ["index", corpus, "--out", str(tmp_path / "index"), "--retriever", "dense"]
    assert main([*base, "--mode", "flat"]) == 2
    assert "choose one of: exact, int8, hnsw, ivf-pq" in one_line(capsys)
    assert main([*base, "--encoder", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in one_line(capsys)


def test_words_need_no_torch(corpus, tmp_path):
    probe = (
        "import sys; from tspo.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'faiss', 'fastapi', 'httpx') if m in sys.modules]); sys.exit(code)"
    )
    command = [sys.executable, "-c", probe, "index", corpus, "--out", str(tmp_path / "index")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "[]")


def test_a_terminal_sees_progress_with_time_left(corpus, tmp_path):
    parent, child = pty.openpty()
    command = [*COMMAND, "index", corpus, "--out", str(tmp_path / "index")]
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                block = os.read(parent, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            shown += block
    os.close(parent)
    assert process.returncode == 0
    for phase in (b"passages", b"tokens", b"sorting", b"checksums"):
        assert phase in shown
    assert b"50/50" in shown
    assert b"0:00:00" in shown


@pytest.mark.slow
def test_a_build_killed_anywhere_leaves_nothing_that_loads(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 10_000)
    (tmp_path / "out").mkdir()
    index = tmp_path / "out" / "index"
    command = [*COMMAND, "index", corpus, "--out", str(index)]
    killed_midway = 0
    for step in range(60):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        deadline = time.monotonic() + 60
        while not any((tmp_path / "out").iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02 * step)
        process.kill()
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        if index.exists():  # killed between the renaming and the end
            break
        (leftover,) = (tmp_path / "out").iterdir()
        killed_midway += 1
        with pytest.raises(BadInput):
            read_manifest(index)
        try:
            read_manifest(leftover, checksums=True)  # whole but for the renaming, or not at all
        except BadInput:
            pass
        else:
            break
        for path in leftover.iterdir():
            path.unlink()
        leftover.rmdir()
    assert killed_midway >= 3
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=120, env=ENVIRONMENT)
    assert len(BM25Retriever.load(index)) == 10_000
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index"]
