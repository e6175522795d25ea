import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tspo.cli import main
from tspo.config import load_config
from tspo.datasets.benchmarks import BENCHMARKS, SEVEN
from tspo.datasets.names import Split
from tspo.datasets.prepared import prepare, prepared_file, question_files
from tspo.datasets.questions import read_questions
from tspo.errors import BadInput

WHOLE = b'{"id": "a", "question": "Who?", "golden_answers": ["x"]}\n'


def silent(text):
    pass


@pytest.fixture
def tiny(small):
    return Split(small(), "test")


def test_a_prepared_split_is_a_question_file(tiny, tmp_path):
    manifest = prepare(tiny, tmp_path, silent)
    questions = read_questions([prepared_file(tiny, tmp_path)])
    assert (manifest.rows, manifest.left_out, len(questions)) == (50, 0, 50)
    assert questions[3].id == "tiny_test_3"
    assert questions[3].question == "who is number 3?"
    assert questions[3].golden_answers == ("Person 3",)
    assert questions[3].data_source == "tiny"
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == [
        ".downloads",
        "test.jsonl",
        "test.manifest.json",
    ]


def test_a_prepared_split_needs_no_network(tiny, hub, tmp_path):
    first = prepare(tiny, tmp_path, silent)
    hub.close()
    assert prepare(tiny, tmp_path, silent) == first


def test_a_prepared_folder_can_be_copied(tiny, hub, tmp_path):
    prepare(tiny, tmp_path / "a", silent)
    hub.close()
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(read_questions(question_files([Path("tiny")], "test", tmp_path / "b"))) == 50


def test_a_changed_file_is_noticed(tiny, tmp_path):
    prepare(tiny, tmp_path, silent)
    path = tmp_path / "tiny" / "test.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Person 7", b"Person 8"))
    with pytest.raises(
        BadInput, match=r"test.jsonl: is not what was prepared .*; delete .* tspo data prepare tiny:test"
    ):
        prepared_file(tiny, tmp_path)


def test_a_file_without_its_manifest_is_not_prepared(tiny, tmp_path):
    prepare(tiny, tmp_path, silent)
    (tmp_path / "tiny" / "test.manifest.json").unlink()
    with pytest.raises(BadInput, match=r"tiny:test: is not prepared in .*; run: tspo data prepare tiny:test"):
        prepared_file(tiny, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 1}', ""])
def test_a_damaged_manifest_is_one_clear_line(tiny, tmp_path, text):
    prepare(tiny, tmp_path, silent)
    (tmp_path / "tiny" / "test.manifest.json").write_text(text)
    with pytest.raises(BadInput, match="is not the manifest of a data set"):
        prepared_file(tiny, tmp_path)


def test_a_manifest_cannot_point_elsewhere(tiny, tmp_path):
    prepare(tiny, tmp_path, silent)
    path = tmp_path / "tiny" / "test.manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"file": "../../secret"}))
    with pytest.raises(BadInput, match="is not prepared"):
        prepared_file(tiny, tmp_path)


def test_rows_that_hold_nothing_are_left_out_and_told(small, tmp_path):
    body = (
        b'{"id": "a", "question": "Who?", "golden_answers": ["x"]}\n{"id": "b", "question": "", "golden_answers": []}\n'
    )
    said = []
    manifest = prepare(Split(small(body=body, count=2), "test"), tmp_path, said.append)
    assert (manifest.rows, manifest.left_out) == (2, 1)
    assert "tiny:test: 1 of 2 rows have no question or no answer; they are left out" in said


def test_another_number_of_rows_is_told(small, tmp_path):
    body = WHOLE
    said = []
    prepare(Split(small(body=body, count=3), "test"), tmp_path, said.append)
    assert said[-1] == "tiny:test: 1 rows, where 3 are published"


def test_a_file_that_is_not_json_lines_leaves_nothing_prepared(small, tmp_path):
    split = Split(small(body=b'{"id": "a", "question": "Who?", "gold'), "test")
    with pytest.raises(BadInput, match=r"tiny/test.jsonl, line 1: not JSON"):
        prepare(split, tmp_path, silent)
    assert not (tmp_path / "tiny" / "test.jsonl").exists()


def test_search_r1s_parquet_stays_as_it_is(small, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {
        "data_source": "nq",
        "question": "who",
        "golden_answers": ["x"],
        "extra_info": {"index": 4, "split": "train"},
    }
    parquet.write_table(pyarrow.table({name: [value] for name, value in row.items()}), tmp_path / "p.parquet")
    body = (tmp_path / "p.parquet").read_bytes()
    split = Split(small(body=body, count=1, path="train.parquet", split="train"), "train")
    manifest = prepare(split, tmp_path / "data", silent)
    (question,) = read_questions([prepared_file(split, tmp_path / "data")])
    assert (manifest.rows, manifest.file) == (1, "train.parquet")
    assert (question.id, question.hops) == ("nq_4", 1)


def test_files_of_a_corpus_are_fetched_and_checked_only(small, tmp_path):
    split = Split(small(body=b"bytes", path="part_aa", split="part_aa", kind="files"), "part_aa")
    assert prepare(split, tmp_path, silent).rows is None
    assert (tmp_path / "tiny" / "part_aa").read_bytes() == b"bytes"


def test_the_command_prepares_and_lists(small, hub, capsys):
    small("tiny")
    assert main(["data", "prepare", "tiny"]) == 0
    assert "test.jsonl: 50 questions, SHA-256 " in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny ")]
    assert "yes" in line.split()
    assert main(["data", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "nq"


def test_a_broken_download_is_one_line_and_exit_code_2(small, hub, capsys):
    small("tiny")
    hub.cut = [100, *[0] * 20]
    assert main(["data", "prepare", "tiny:test"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tspo: error: RUC-NLPIR/FlashRAG_datasets/tiny/test.jsonl: could not be downloaded")
    assert error.count("\n") == 1
    hub.cut = []
    assert main(["data", "prepare", "tiny:test"]) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hotpotq", "there is no data set 'hotpotq'; did you mean 'hotpotqa'"),
        ("xyzzy", "there is no data set 'xyzzy'. There are nq, triviaqa"),
        ("nq:validation", "nq: has no 'validation'; it has train, dev, test"),
    ],
)
def test_unknown_names_suggest_known_ones(capsys, name, words):
    assert main(["data", "prepare", name]) == 2
    assert words in capsys.readouterr().err


def write_config(path, **data):
    path.write_text(json.dumps({"model": "tspo:starter", "data": {"corpus": "corpus.jsonl"} | data}))
    return path


def test_configurations_take_names(tiny, hub, tmp_path):
    prepare(tiny, tmp_path / "data", silent)
    config = load_config(write_config(tmp_path / "c.yaml", train="tiny:test", test=["tiny", "./tiny.jsonl"]))
    assert question_files(config.data.train, "train") == [tmp_path / "data" / "tiny" / "test.jsonl"]
    assert question_files(config.data.test, "test")[1] == tmp_path / "tiny.jsonl"
    assert load_config(write_config(tmp_path / "c.yaml", train="x.jsonl"), ["data.train=[tiny:test]"]).data.train == [
        Path("tiny:test")
    ]


def test_the_suite_is_the_seven_evaluation_splits(tmp_path):
    config = load_config(write_config(tmp_path / "c.yaml", train="nq", test="benchmarks"))
    assert config.data.test == [Path("benchmarks")]
    with pytest.raises(
        BadInput, match=r"not prepared in .*: nq:test, triviaqa:test, .*; run: tspo data prepare nq:test"
    ):
        question_files(config.data.test, "test", tmp_path)
    assert [BENCHMARKS[name].evaluation for name in SEVEN] == ["test", "test", "test", "dev", "dev", "dev", "test"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"train": "hotpotq"}, "'data': train: there is no data set 'hotpotq'; did you mean 'hotpotqa'"),
        ({"train": "nq", "test": ["nq", "popqa:dev"]}, "test: popqa: has no 'dev'; it has test"),
        ({"train": "popqa"}, "train: popqa: has no 'train'"),
        ({"train": "benchmarks"}, "train: benchmarks: are for evaluation"),
        ({"train": "wiki-18-corpus"}, "train: wiki-18-corpus: holds no questions"),
    ],
)
def test_configurations_refuse_names_that_there_are_not(tmp_path, data, words):
    with pytest.raises(BadInput) as caught:
        load_config(write_config(tmp_path / "c.yaml", **data))
    assert words in str(caught.value)


def test_a_file_with_a_word_for_a_name_is_a_file(tmp_path):
    (tmp_path / "mine").write_text('{"question": "Who?", "golden_answers": ["x"]}\n')
    config = load_config(write_config(tmp_path / "c.yaml", train=["mine"]))
    assert config.data.train == [tmp_path / "mine"]


_PREPARE = """
import sys
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000
from tspo.datasets.benchmarks import BENCHMARKS, Benchmark, HubFile
from tspo.cli import main
BENCHMARKS["tiny"] = Benchmark("tiny", "RUC-NLPIR/FlashRAG_datasets", sys.argv[1],
    {"test": HubFile("tiny/test.jsonl", 1.0)}, "", "", "", "test")
sys.exit(main(["data", "prepare", "tiny"]))
"""


@pytest.mark.slow
def test_a_killed_download_goes_on(small, hub, tmp_path):
    benchmark = small(count=60_000)
    (path,) = hub.files
    half = len(hub.files[path]) // 2
    command = [sys.executable, "-c", _PREPARE, benchmark.revision]
    hub.pause_after = half
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    part = tmp_path / "data" / "tiny" / ".downloads" / f"tiny-test.jsonl.{benchmark.revision[:12]}.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    hub.pause_after = None
    hub.requests.clear()
    assert main(["data", "prepare", "tiny"]) == 0
    assert 0 < kept < len(hub.files[path])
    assert hub.bodies_sent_from() == [kept]
    assert len(read_questions([tmp_path / "data" / "tiny" / "test.jsonl"])) == 60_000
