import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("peft")

from tspo.advantages import ADVANTAGES
from tspo.cli import main
from tspo.training import compare
from tspo.training.side_by_side import Failure

MINIMAL = "model: some/model\noutput_dir: out\ndata: {train: [train.jsonl], test: [test.jsonl], corpus: corpus.jsonl}\n"


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.fixture
def trained(monkeypatch, write_finished_run):
    """Runs end at once, and well but for those whose label is in `failing`; returns (labels, failing)."""
    labels, failing = [], []

    def run_side_by_side(runs, jobs, console, stop):
        labels.extend(run.label for run in runs)
        for run in runs:
            if run.label in failing:
                run.log.parent.mkdir(parents=True, exist_ok=True)
                run.log.write_text("all is lost\n")
            elif not run.folder.exists():
                write_finished_run(run.folder)
        return [Failure(run, 2) for run in runs if run.label in failing]

    monkeypatch.setattr(compare, "run_side_by_side", run_side_by_side)
    return labels, failing


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_two_methods_over_seeds(config_file, tmp_path, capsys, trained):
    out = tmp_path / "out"
    assert main(["compare", config_file, "training.steps=3", "--out", str(out), "--seeds", "0-1"]) == 0
    assert len(trained[0]) == 4
    printed = capsys.readouterr().out
    assert "Differences from algorithm=grpo" in printed
    assert f"written to {out}" in printed
    for name in ("compare.md", "compare.json", "arms.svg", "arms.png", "curves.svg", "curves.png", "grid.json"):
        assert (out / name).exists()


def test_settings_may_stand_after_options(config_file, tmp_path, trained):
    out = str(tmp_path / "out")
    assert main(["compare", "--out", out, "--seeds", "0", "--vary", "credit.alpha=0.1,0.3", config_file, "seed=0"]) == 2
    assert main(["compare", "--out", out, "--seeds", "0", "--vary", "credit.alpha=0.1,0.3", config_file]) == 0
    assert trained[0] == ["alpha=0.1 seed 0", "alpha=0.3 seed 0"]


def test_the_report_alone_runs_nothing(config_file, tmp_path, capsys, trained):
    out = str(tmp_path / "out")
    assert main(["compare", config_file, "--out", out, "--seeds", "0"]) == 0
    trained[0].clear()
    capsys.readouterr()
    assert main(["compare", "--out", out, "--report-only", "--target-em", "0.25"]) == 0
    assert trained[0] == []
    assert "EM 0.25" in capsys.readouterr().out
    assert main(["compare", "--out", out, "--report-only", "--against", "algorithm=tspo"]) == 0
    assert "Differences from algorithm=tspo" in capsys.readouterr().out


def test_a_failure_is_told_last_with_its_log_and_is_exit_code_1(config_file, tmp_path, capsys, trained):
    trained[1].append("algorithm=grpo seed 1")
    out = tmp_path / "out"
    assert main(["compare", config_file, "--out", str(out), "--seeds", "0-1"]) == 1
    printed = capsys.readouterr().out
    assert "- algorithm=grpo: 1" in printed
    log = out / "runs" / "algorithm=grpo" / "seed-1.log"
    assert printed.endswith(f"  algorithm=grpo seed 1: exit code 2, log: {log}\n    all is lost\n")


def test_when_all_failed_there_is_no_report(config_file, tmp_path, capsys, trained):
    trained[1].extend(f"algorithm={name} seed 0" for name in ("tspo", "grpo"))
    assert main(["compare", config_file, "--out", str(tmp_path / "out"), "--seeds", "0"]) == 1
    printed = capsys.readouterr().out
    assert "no report: " in printed
    assert printed.count("all is lost") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seeds", "x"], "--seeds"),
        (["--jobs", "0"], "--jobs 0"),
        (["--target-em", "0"], "--target-em 0"),
        (["--target-em", "nan"], "--target-em nan"),
        (
            ["--against", "algorithm=rloo"],
            "--against 'algorithm=rloo': no arm of these: 'algorithm=grpo', 'algorithm=tspo'",
        ),
        (["--vary", "credit.alpha"], "--vary 'credit.alpha'"),
        (["--vary", "credit.alpha=0.5,2"], "alpha"),
        (["--vary", "training.steps=10,20"], "budgets"),
        (["--arm", "credit.algorithm=ppo"], "arm 'algorithm=ppo': algorithm: ppo needs a critic's value"),
        (["--vary", "seed=1,2"], "use --seeds"),
        (["--arm", "credit.alpah=1"], "did you mean 'credit.alpha'"),
        (["--arm", "credit.alpha=0.3", "--arm", "credit.alpha=0.30"], "are the same"),
        (["output_dir=x"], "use --seeds and --out"),
        (["--report-only"], "holds no comparison"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(config_file, tmp_path, capsys, trained, arguments, told):
    assert main(["compare", config_file, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert told in one_line(capsys)
    assert not (tmp_path / "out").exists()
    assert trained[0] == []


def test_a_config_that_is_not_there(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "No such file" in one_line(capsys)


def test_without_matplotlib_it_is_said_how_to_get_it(config_file, tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    assert main(["compare", config_file, "--out", str(tmp_path / "out")]) == 2
    assert "needs matplotlib; pip install 'tspo[train]'" in one_line(capsys)


def test_the_report_needs_no_torch(config_file, tmp_path, trained):
    """Nor does waiting for runs: only their own processes take the memory of the libraries."""
    assert main(["compare", config_file, "--out", str(tmp_path / "out"), "--seeds", "0"]) == 0
    probe = (
        "import sys; from tspo.cli import main; code = main(sys.argv[1:]);"
        "import tspo.training.side_by_side;"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    arguments = ["compare", "--out", str(tmp_path / "out"), "--report-only"]
    result = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "[]\n")


def test_arguments_from_a_file_and_the_arms_of_all_methods(tmp_path, trained, capsys):
    configs = Path(__file__).parents[2] / "configs"
    arguments = [str(configs / "embedded-near-miss.yaml"), f"@{configs / 'embedded-methods.arms'}", "--seeds", "0"]
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 0
    compared = json.loads((tmp_path / "out/grid.json").read_text())["arms"]
    assert {arm["settings"]["credit"]["algorithm"] for arm in compared.values()} == set(ADVANTAGES) - {"ppo"}
    assert all(arm["settings"]["training"]["answer_cue"] == "<think> The answer is" for arm in compared.values())
    averages = {name: arm["settings"]["training"]["average"] for name, arm in compared.items()}
    constant = {"algorithm=dr_grpo average=constant"}
    assert {name for name, average in averages.items() if average == "constant"} == constant
    assert len(trained[0]) == len(compared) == 13
