import json
import math

import pytest

from tspo.errors import BadInput
from tspo.training.metrics_log import append_metrics, truncate_metrics, without_nan


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_step_appends_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "loss": 0.5, "stop/answer": 1.0}, {"step": 2, "loss": 0.25, "stop/answer": 0.5}]
    for line in lines:
        append_metrics(line, path)
    assert read(path) == lines


def test_a_number_that_json_cannot_hold_is_null_and_resuming_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_metrics({"step": 1, "loss": math.nan, "grad_norm": math.inf, "exact_match": 0.25}, path)
    truncate_metrics(path, 1)
    assert read(path) == [{"step": 1, "loss": None, "grad_norm": None, "exact_match": 0.25}]
    assert without_nan({"step": 1, "kl": -math.inf, "name": "x"}) == {"step": 1, "kl": None, "name": "x"}


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_metrics(path, 3)
    assert not path.exists()
    for step in (1, 2, 3, 4):
        append_metrics({"step": step}, path)
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')
    truncate_metrics(path, 3)
    assert [line["step"] for line in read(path)] == [1, 2, 3]
    append_metrics({"step": 4}, path)
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4]
    truncate_metrics(path, 0)
    assert path.read_text() == ""


def test_a_whole_line_that_is_no_json_is_bad_input(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{oops\n')
    with pytest.raises(BadInput, match="line 2"):
        truncate_metrics(path, 1)
    assert path.read_text() == '{"step": 1}\n{oops\n'
