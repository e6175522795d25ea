import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tspo.cli import main
from tspo.datasets.corpus import Document
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.build_index import build_bm25_index

CORPUS = [
    Document("0", '"Rome"\nthe capital of Italy'),
    Document("1", '"Paris"\nthe capital of France'),
    Document("2", '"Seine"\na river through Paris'),
]
QUESTIONS = [
    {"id": "a", "question": "capital of Italy?", "golden_answers": ["Rome"], "supporting_titles": ["Rome"]},
    {"id": "b", "question": "Paris river", "golden_answers": ["Seine"], "supporting_titles": ["Seine", "Paris"]},
    {"id": "c", "question": "nothing known", "golden_answers": ["x"]},
]


@pytest.fixture
def place(tmp_path):
    build_bm25_index(CORPUS, tmp_path / "index")
    return str(tmp_path / "index")


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    return str(path)


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_table_for_people(place, questions, capsys):
    assert main(["evaluate-retriever", place, questions, "--k", "2,1", "--checksums"]) == 0
    *table, left_out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table] == [
        ["all"],
        ["questions", "2"],
        ["recall@1", "0.750", "[0.500,", "1.000]"],
        ["recall@2", "1.000", "[1.000,", "1.000]"],
        ["MRR@2", "1.000", "[1.000,", "1.000]"],
    ]
    assert left_out == "left out, for they name no supporting_titles: 1"


def test_json_for_programs(place, questions, capsys):
    assert main(["evaluate-retriever", place, questions, "--k", "1", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["all"]["questions"] == 2
    assert read["all"]["metrics"]["recall@1"]["mean"] == 0.75


@pytest.mark.parametrize("ks", ["0", "-1", "x", "", "1,,3", "1.5"])
def test_a_bad_k_is_one_line(place, questions, ks, capsys):
    assert main(["evaluate-retriever", place, questions, f"--k={ks}"]) == 2
    assert "--k" in one_line(capsys)


def test_what_is_not_there_is_one_line(place, questions, tmp_path, capsys):
    assert main(["evaluate-retriever", str(tmp_path / "none"), questions]) == 2
    assert "not a whole index" in one_line(capsys)
    assert main(["evaluate-retriever", place, str(tmp_path / "none.jsonl")]) == 2
    assert "cannot be read" in one_line(capsys)
    (tmp_path / "bare.jsonl").write_text(json.dumps(QUESTIONS[2]))
    assert main(["evaluate-retriever", place, str(tmp_path / "bare.jsonl")]) == 2
    assert "supporting_titles" in one_line(capsys)


def test_a_service_has_no_encoder_to_name(questions, capsys):
    assert main(["evaluate-retriever", "http://127.0.0.1:1", questions, "--encoder", "x"]) == 2
    assert "--encoder is for an index folder" in one_line(capsys)


@pytest.fixture
def service(place):
    """The address of a server that searches the index."""
    retriever = BM25Retriever.load(place)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = [
                [{"document": {"id": p.id, "contents": p.contents}, "score": p.score} for p in passages]
                for passages in retriever.search(asked["queries"], asked["topk"])
            ]
            body = json.dumps({"result": found}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_service_is_measured_as_its_index_is(place, service, questions, capsys):
    pytest.importorskip("httpx")
    tables = []
    for where in (place, service):
        assert main(["evaluate-retriever", where, questions]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
