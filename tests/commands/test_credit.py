import io
import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from tspo.cli import main
from tspo.credit import CreditConfig, valid_choices

COMMAND = [sys.executable, "-c", "import sys; from tspo.cli import main; sys.exit(main())"]


def line(group_id, answer, *feedbacks, **more):
    turns = [{"text": "<search>x</search>", "feedback": feedback} for feedback in feedbacks]
    turns.append({"text": f"<answer>{answer}</answer>"})
    return {"group_id": group_id, "question": "who?", "golden_answers": ["Jane Doe"], "turns": turns, **more}


# two groups, interleaved
LINES = [
    line("q1", "Jane Doe", "nothing", note={"kept": [1, None]}),
    line("q2", "Bob", "nothing"),
    line("q1", "Bob", "by Jane Doe", "nothing"),
    line("q2", "Jane Doe"),
]
FIELDS = ("outcome", "first_occurrence", "turn_rewards", "turn_advantages")


def write(path, lines):
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in lines), encoding="utf-8")
    return str(path)


def read(path):
    return [json.loads(text) for text in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", LINES)


def run(*arguments, **options):
    return subprocess.run([*COMMAND, "credit", *arguments], capture_output=True, timeout=60, **options)


def test_writes_each_line_back_in_order_with_four_fields(source, tmp_path):
    out = str(tmp_path / "out.jsonl")
    result = run(source, "--out", out, "--scale", "none")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    lines = read(out)
    assert [{k: v for k, v in item.items() if k not in FIELDS} for item in lines] == LINES
    assert [[item[name] for name in FIELDS] for item in lines] == [
        [1.0, None, [1.0, 1.0], [0.25, 0.5]],
        [0.0, None, [0.0, 0.0], [-0.5, -0.5]],
        [0.0, 0, [0.5, 0.0, 0.0], [-0.25, -0.5, -0.5]],
        [1.0, None, [1.0], [0.5]],
    ]


def test_pipe_equals_file(source, tmp_path, capfd):
    assert main(["credit", source, "--out", str(tmp_path / "out.jsonl")]) == 0
    assert main(["credit", source]) == 0
    piped = run("-", input=Path(source).read_bytes())
    assert piped.stdout == (tmp_path / "out.jsonl").read_bytes()
    assert capfd.readouterr().out.encode() == piped.stdout


def test_every_option_reaches_the_config(source, monkeypatch, capfd):
    import tspo.credit

    given = {
        "algorithm": "grpo",
        "alpha": 0.25,
        "credit": "first_turn",
        "match": "substring",
        "baseline": "reached",
        "level": "turn_if_all_wrong",
        "scale": "none",
        "ignore": ("maybe", "perhaps"),
        "reward": "search_r1",
        "gamma": 0.5,
        "turn_weight": 2.0,
        "anchor_similarity": 0.9,
        "order": "accumulate_first",
        "unsearched": "combined",
        "format_score": 0.3,
        "broken_format_score": 0.1,
        "retrieval_score": 0.15,
        "process_scale": 0.6,
    }
    assert set(given) == {field.name for field in fields(CreditConfig)} - OF_A_CRITIC
    seen = []
    original = tspo.credit.assign_credit
    monkeypatch.setattr(
        tspo.credit, "assign_credit", lambda items, config: seen.append(config) or original(items, config)
    )
    arguments = [f"--{k.replace('_', '-')}={v if k != 'ignore' else 'maybe, perhaps'}" for k, v in given.items()]
    assert main(["credit", source, *arguments]) == 0
    assert main(["credit", source]) == 0
    assert seen == [CreditConfig(**given), CreditConfig()]


def test_help_shows_the_true_defaults_and_choices(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["credit", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out.split("options:")[1].split("examples:")[0]
    text = " ".join(text.split())
    for name, choices in valid_choices().items():
        choices = tuple(choice for choice in choices if choice != "ppo")
        assert f"--{name} {'|'.join(choices)} " in text or f"--{name} NAME " in text
        assert "|".join(choices) in text or ", ".join(choices) in " ".join(text.split())
    for field in fields(CreditConfig):
        if field.name in OF_A_CRITIC:
            continue
        default = ",".join(field.default) if field.name == "ignore" else field.default
        assert text.split(f"--{field.name.replace('_', '-')} ")[1].split("(default: ")[1].split(")")[0] == str(default)


def test_in_and_out_may_be_one_file_and_a_second_run_changes_nothing(source):
    assert main(["credit", source, "--out", source]) == 0
    once = read(source)
    assert main(["credit", source, "--out", source]) == 0
    assert read(source) == once
    assert once[0]["outcome"] == 1.0


def test_out_through_a_symbolic_link(source, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real" / "out.jsonl")
    assert main(["credit", source, "--out", str(link)]) == 0
    assert link.is_symlink()
    assert len(read(tmp_path / "real" / "out.jsonl")) == 4


def test_out_may_be_a_device(source):
    assert main(["credit", source, "--out", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


BAD = {
    "not json": b"{oops\n",
    "not an object": b"[1]\n",
    "no turns": b'{"group_id": "q", "question": "w", "golden_answers": ["x"]}\n',
    "empty turns": b'{"group_id": "q", "question": "w", "golden_answers": ["x"], "turns": []}\n',
    "no golden answers": b'{"group_id": "q", "question": "", "golden_answers": [], "turns": [{"text": ""}]}',
    "not utf-8": b'{"group_id": "\xff"}\n',
    "infinite": b'{"x": 1e999}\n',
    "nan": b'{"x": NaN}\n',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_named_and_nothing_is_written(source, tmp_path, bad):
    with open(source, "ab") as stream:
        stream.write(bad)
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    result = run(source, "--out", str(out))
    message = result.stderr.decode()
    assert result.returncode == 2
    assert message.startswith("tspo: error: ")
    assert message.count("\n") == 1
    assert f"{source}, line 5" in message
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    assert run(source).stdout == b""


def test_an_input_that_is_not_there(tmp_path, capsys):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    for path, reason in [
        (tmp_path / "none.jsonl", "No such file"),
        (tmp_path, "Is a directory"),
        (empty, "no trajectories"),
    ]:
        assert main(["credit", str(path)]) == 2
        message = capsys.readouterr().err
        assert f"tspo: error: {path}: " in message
        assert reason in message
        assert message.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_input_that_may_not_be_read(source, capsys):
    Path(source).chmod(0)
    assert main(["credit", source]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_an_output_that_cannot_be_written(source, tmp_path, capsys):
    for out in (tmp_path, tmp_path / "none" / "out.jsonl"):
        assert main(["credit", source, "--out", str(out)]) == 2
        assert f"tspo: error: {out}: " in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [*COMMAND, "credit", "-"],
            input=json.dumps(LINES[0]).encode(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert result.returncode == 2
    assert result.stderr.startswith(b"tspo: error: standard output: ")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["--match", "fuzzy"], ["--alpha", "2"], ["--alpha", "nan"]])
def test_a_bad_option_is_bad_input(source, capsys, arguments):
    assert main(["credit", source, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tspo: error: {arguments[0][2:]}: ")


@pytest.mark.parametrize("arguments", [["credit"], ["credit", "x", "--alpha", "half"], ["nonsense"]])
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: tspo" in capsys.readouterr().err


def test_no_command_shows_help(capsys):
    assert main([]) == 2
    assert "credit" in capsys.readouterr().err


def test_any_text_survives_an_ascii_locale(tmp_path):
    item = line("q", "Bob", "nothing", note="é 漢字 \u2028 😀")
    odd = json.dumps(line("q", "Bob", "half a pair")).replace("half", "\\ud800")
    data = json.dumps(item, ensure_ascii=False).encode() + b"\n" + odd.encode() + b"\n"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    result = run("-", input=data, env=environment)
    assert result.stderr == b""
    first, second = result.stdout.decode("utf-8").rstrip("\n").split("\n")
    assert item["note"] in first
    assert json.loads(first)["note"] == item["note"]
    assert json.loads(second)["turns"][0]["feedback"] == "\ud800 a pair"


def test_a_closed_pipe_is_quiet(tmp_path):
    source = write(tmp_path / "in.jsonl", LINES * 2000)
    process = subprocess.Popen([*COMMAND, "credit", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert errors == b""


def test_ctrl_c_is_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    monkeypatch.setattr("tspo.trajectory.read_records", interrupted)
    assert main(["credit", "-"]) == 130


def test_starts_fast_and_without_the_heavy_libraries(source):
    probe = (
        "import sys; from tspo.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('torch', 'pydantic', 'rich', 'yaml') if m in sys.modules], file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-c", probe, "credit", source], capture_output=True, timeout=60, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert result.stderr.strip() == b"[]"
    assert min(seconds) < 0.5


def test_version_imports_no_numpy():
    probe = "import sys, tspo.cli; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True).stdout.strip() == b"False"
    result = subprocess.run([*COMMAND, "--version"], capture_output=True)
    assert result.stdout.startswith(b"tspo ")


OF_A_CRITIC = {"gae_lambda"}
"""Options of `CreditConfig` without a place here: `tspo credit` has no critic."""


def test_what_wants_a_critic_is_refused_before_anything_is_read(capsys):
    assert main(["credit", "/no/such/file", "--algorithm", "ppo"]) == 2
    assert "algorithm: ppo needs a critic's value of every token; tspo train --engine verl" in capsys.readouterr().err


NEEDS = {"stepsearch": "supporting_passages", "information_gain": "answer_log_probability"}


@pytest.mark.parametrize("algorithm", [name for name in valid_choices()["algorithm"] if name != "ppo"])
def test_every_algorithm_that_needs_no_model(source, tmp_path, algorithm, capfd):
    out = tmp_path / "out.jsonl"
    code = main(["credit", source, "--out", str(out), "--algorithm", algorithm])
    error = capfd.readouterr().err
    if algorithm != "igpo":
        assert (code, error) == (0, "")
        assert all(len(item["turn_advantages"]) == len(item["turns"]) for item in read(out))
    else:
        assert code == 2
        assert error.count("\n") == 1
        assert "needs 'answer_log_probability'" in error
        assert not out.exists()


@pytest.mark.parametrize(("reward", "field"), NEEDS.items())
def test_a_reward_that_needs_more_takes_it_from_the_file(tmp_path, reward, field, capfd):
    lines = [json.loads(json.dumps(item)) for item in LINES]
    source = write(tmp_path / "in.jsonl", lines)
    assert main(["credit", source, "--algorithm", "gigpo", "--reward", reward]) == 2
    assert f"reward {reward} needs '{field}'" in capfd.readouterr().err
    for item in lines:
        item["supporting_passages"] = ["by Jane Doe"]
        for turn in item["turns"]:
            turn["answer_log_probability"] = -1.5
    out = tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", lines)
    assert main(["credit", source, "--algorithm", "gigpo", "--reward", reward, "--out", str(out)]) == 0
    assert [{k: v for k, v in item.items() if k not in FIELDS} for item in read(out)] == lines


def test_a_senseless_pair_is_refused_in_one_line(source, tmp_path, capfd):
    out = tmp_path / "out.jsonl"
    assert main(["credit", source, "--out", str(out), "--algorithm", "grpo", "--reward", "folr"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "reward: folr does not go with algorithm grpo" in error
    assert not out.exists()
