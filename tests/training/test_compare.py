import fcntl
import io

import pytest
import yaml
from rich.console import Console

pytest.importorskip("matplotlib")

from tspo.config import load_config
from tspo.errors import BadInput
from tspo.training import compare
from tspo.training.compare import report_comparison, run_comparison
from tspo.training.grid import make_arm, read_grid
from tspo.training.side_by_side import Failure

MINIMAL = "model: some/model\noutput_dir: out\ndata: {train: [train.jsonl], test: [test.jsonl], corpus: corpus.jsonl}\n"


@pytest.fixture
def make(tmp_path):
    """A function that makes arms of the file's settings as they are when it is called."""
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return lambda *overrides: [make_arm([override], lambda given: load_config(path, given)) for override in overrides]


@pytest.fixture
def trained(monkeypatch, write_finished_run):
    """Runs end at once, and well but for those whose label is in `failing`; returns (labels, failing)."""
    labels, failing = [], []

    def run_side_by_side(runs, jobs, console, stop):
        labels.extend(run.label for run in runs)
        for run in runs:
            if run.label not in failing and not run.folder.exists():
                assert "seed" not in yaml.safe_load(run.config.read_text())
                write_finished_run(run.folder)
        return [Failure(run, 2) for run in runs if run.label in failing]

    monkeypatch.setattr(compare, "run_side_by_side", run_side_by_side)
    return labels, failing


def run(folder, arms, seeds=(0, 1)):
    return run_comparison(folder, arms, seeds, 1, Console(file=io.StringIO()))


def test_every_arm_is_run_with_every_seed_and_reported(tmp_path, make, trained):
    labels, _ = trained
    assert run(tmp_path / "out", make("credit.algorithm=tspo", "credit.algorithm=grpo")) == []
    assert labels == [f"algorithm={name} seed {seed}" for seed in (0, 1) for name in ("tspo", "grpo")]
    text = report_comparison(tmp_path / "out", 0.5)
    assert "Differences from algorithm=tspo" in text
    assert "Not finished" not in text
    assert (tmp_path / "out" / "compare.md").exists()


def test_a_run_s_configuration_is_that_of_its_arm(tmp_path, make, trained):
    (arm,) = make("credit.alpha=0.3")
    run(tmp_path / "out", [arm])
    path = tmp_path / "out" / "runs" / "alpha=0.3" / "config.yaml"
    config = load_config(path, ["output_dir=x", "seed=1"])
    assert config.credit.alpha == 0.3
    assert str(config.data.corpus) == str(tmp_path / "corpus.jsonl"), "paths are those of the file it came from"


def test_failures_are_returned_and_not_in_the_report(tmp_path, make, trained):
    trained[1].append("alpha=0.3 seed 1")
    (failure,) = run(tmp_path / "out", make("credit.alpha=0.3"))
    assert failure.run.log == tmp_path / "out" / "runs" / "alpha=0.3" / "seed-1.log"
    assert report_comparison(tmp_path / "out", 0.5).endswith("- alpha=0.3: 1\n")


def test_arms_and_seeds_that_come_join_those_that_are_there(tmp_path, make, trained):
    labels, _ = trained
    run(tmp_path / "out", make("credit.alpha=0.3"), seeds=[0])
    labels.clear()
    run(tmp_path / "out", make("credit.alpha=0.1"), seeds=[1])
    assert labels == ["alpha=0.1 seed 1"]
    grid = read_grid(tmp_path / "out" / "grid.json")
    assert [arm.name for arm in grid.arms] == ["alpha=0.3", "alpha=0.1"]
    assert grid.seeds == (0, 1)
    assert "- alpha=0.3: 1\n- alpha=0.1: 0\n" in report_comparison(tmp_path / "out", 0.5)


def test_changed_settings_of_an_arm_that_has_runs_are_refused(tmp_path, make, trained):
    labels, _ = trained
    run(tmp_path / "out", make("credit.alpha=0.3"))
    labels.clear()
    before = (tmp_path / "out" / "grid.json").read_text()
    (tmp_path / "run.yaml").write_text(MINIMAL + "rollout: {top_k: 9}\n")
    with pytest.raises(BadInput, match=r"'alpha=0.3' has runs with other settings for rollout.top_k; .* another --out"):
        run(tmp_path / "out", make("credit.alpha=0.3"))
    assert labels == []
    assert (tmp_path / "out" / "grid.json").read_text() == before


def test_an_arm_whose_runs_all_failed_at_once_may_change(tmp_path, make, trained):
    trained[1].extend(["alpha=0.3 seed 0", "alpha=0.3 seed 1"])
    assert len(run(tmp_path / "out", make("credit.alpha=0.3"))) == 2
    with pytest.raises(BadInput, match="no run is finished yet"):
        report_comparison(tmp_path / "out", 0.5)
    trained[1].clear()
    (tmp_path / "run.yaml").write_text(MINIMAL + "rollout: {top_k: 9}\n")
    assert run(tmp_path / "out", make("credit.alpha=0.3")) == []


def test_two_at_once_in_one_folder_are_refused(tmp_path, make, trained):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another run is writing here"):
            run(tmp_path / "out", make("credit.alpha=0.3"))
    assert not (tmp_path / "out" / "grid.json").exists()


def test_a_broken_grid_file_is_told_before_anything_is_written(tmp_path, make, trained):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "grid.json").write_text("{")
    with pytest.raises(BadInput, match="not the grid of a comparison"):
        run(tmp_path / "out", make("credit.alpha=0.3"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["grid.json"]


def test_a_folder_without_a_comparison_has_no_report(tmp_path):
    with pytest.raises(BadInput, match="holds no comparison"):
        report_comparison(tmp_path, 0.5)
