import json
from pathlib import Path

from tspo.training.verl.metrics import last_checkpoint, merge_sessions, session_file


def write_session(folder: Path, start: int, values: dict[int, float], tail: str = "") -> None:
    lines = [json.dumps({"step": step, "data": {"x": value}}) + "\n" for step, value in values.items()]
    session_file(folder, start).write_text("".join(lines) + tail)


def merged(folder: Path) -> list[tuple[int, float]]:
    merge_sessions(folder, folder / "metrics.jsonl")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["x"]) for line in lines]


def test_a_step_that_was_done_again_counts_as_it_was_then(tmp_path: Path) -> None:
    write_session(tmp_path, 0, {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}, tail='{"step": 4, "da')
    assert merged(tmp_path) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    write_session(tmp_path, 2, {3: 30.0, 4: 40.0})
    assert merged(tmp_path) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_steps_that_the_run_did_not_go_on_from_are_gone(tmp_path: Path) -> None:
    write_session(tmp_path, 0, {1: 1.0, 2: 2.0, 3: 3.0})
    write_session(tmp_path, 1, {})
    assert merged(tmp_path) == [(1, 1.0)]


def test_what_means_the_same_has_the_names_of_every_other_run(tmp_path: Path) -> None:
    data = {
        "actor/lr": 0.5,
        "critic/score/mean": 0.25,
        "rollout_corr/kl": float("nan"),
        "timing_s/step": 5.0,
        "tspo/rollout_seconds": 3.0,
        "tspo/trained_tokens": 40.0,
        "tspo/exact_match": 0.25,
    }
    session_file(tmp_path, 0).write_text(json.dumps({"step": 1, "data": data}) + "\n")
    merge_sessions(tmp_path, tmp_path / "metrics.jsonl")
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "learning_rate": 0.5,
        "step_seconds": 5.0,
        "rollout_seconds": 3.0,
        "exact_match": 0.25,
        "update_seconds": 2.0,
        "update_tokens_per_second": 20.0,
        "actor/lr": 0.5,
        "critic/score/mean": 0.25,
        "rollout_corr/kl": None,
        "timing_s/step": 5.0,
    }


def test_the_last_checkpoint_is_the_one_that_verl_names(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) == 0
    (tmp_path / "global_step_5").mkdir()  # half-written
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("4")
    assert last_checkpoint(tmp_path) == 4
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("")
    assert last_checkpoint(tmp_path) == 0
