import json
import math
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from tspo.errors import BadInput
from tspo.training.metrics_log import TIMINGS, MetricsLog, metrics_line, truncate_metrics

LOGS = {
    "loss": 0.5,
    "grad_norm": 1.25,
    "clip_ratio/region_mean": 0.125,
    "step_time": 4.0,
    "num_tokens": 900,
    "completions/mean_length": 3.0,
    "tspo/exact_match": 0.25,
    "tspo/stop/answer": 1.0,
    "tspo/trained_tokens": 600.0,
    "tspo/rollout_seconds": 1.0,
    "tspo/rollout_tokens_per_second": 70.0,
    "tspo/search_seconds": 0.5,
    "tspo/cache_hit_share": 0.75,
}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_this_projects_names():
    assert metrics_line(7, LOGS) == {
        "step": 7,
        "loss": 0.5,
        "grad_norm": 1.25,
        "clip_share": 0.125,
        "step_seconds": 4.0,
        "tokens_seen": 900,
        "exact_match": 0.25,
        "stop/answer": 1.0,
        "rollout_seconds": 1.0,
        "rollout_tokens_per_second": 70.0,
        "search_seconds": 0.5,
        "cache_hit_share": 0.75,
        "update_seconds": 3.0,
        "update_tokens_per_second": 200.0,
    }


def test_timings_are_names_of_a_line():
    assert set(metrics_line(1, LOGS)) >= TIMINGS


def log(callback, step, logs, first_process=True):
    state = SimpleNamespace(global_step=step, is_world_process_zero=first_process)
    callback.on_log(None, state, None, logs=logs)


def test_each_training_step_appends_a_line(tmp_path):
    callback = MetricsLog(tmp_path / "metrics.jsonl")
    log(callback, 1, LOGS)
    log(callback, 2, LOGS)
    log(callback, 2, {"train_runtime": 3.0})  # the summary at the end
    log(callback, 2, None)
    log(callback, 3, LOGS, first_process=False)
    assert read(callback.path) == [metrics_line(1, LOGS), metrics_line(2, LOGS)]
    assert callback.last == metrics_line(2, LOGS)


def test_a_number_that_json_cannot_hold_is_null_and_resuming_goes_on(tmp_path):
    callback = MetricsLog(tmp_path / "metrics.jsonl")
    log(callback, 1, LOGS | {"loss": math.nan, "grad_norm": math.inf, "entropy": None})  # TRL's mean of only NaNs
    truncate_metrics(callback.path, 1)
    (line,) = read(callback.path)
    assert (line["loss"], line["grad_norm"], line["entropy"], line["exact_match"]) == (None, None, None, 0.25)


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_metrics(path, 3)
    assert not path.exists()
    callback = MetricsLog(path)
    for step in (1, 2, 3, 4):
        log(callback, step, LOGS)
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')
    truncate_metrics(path, 3)
    assert [line["step"] for line in read(path)] == [1, 2, 3]
    log(callback, 4, LOGS)
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4]
    truncate_metrics(path, 0)
    assert path.read_text() == ""


def test_a_whole_line_that_is_no_json_is_bad_input(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{oops\n')
    with pytest.raises(BadInput, match="line 2"):
        truncate_metrics(path, 1)
    assert path.read_text() == '{"step": 1}\n{oops\n'
