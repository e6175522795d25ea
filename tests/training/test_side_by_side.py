"""Processes that stand in for training: each writes what a run leaves, fails, or waits for a signal."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from tspo.training.checkpoints import mark_whole
from tspo.training.side_by_side import Run, _wait_for, is_done, last_step, run_side_by_side, train_command
from tspo.training.signals import StopRequest, stop_on_signals

FINISH = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("seed: 0")
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
(folder / "checkpoint-2").mkdir()
(folder / "metrics.jsonl").write_text('{"step": 1}\\n')
(folder / "evaluation" / "after-training").mkdir(parents=True)
(folder / "evaluation" / "after-training" / "summary.json").write_text("{}")
(folder / "model").mkdir()
(folder / "model" / "whole.json").write_text(json.dumps({"files": {}}))
print("trained")
"""
FAIL = "import sys; print('all is lost', file=sys.stderr); sys.exit(2)"
# Tells its process number, then waits; SIGTERM is a stop with a checkpoint, anything else is not.
WAIT = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
def stop(number, frame):
    (folder / "stopped").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
(folder / "started.part").write_text(str(os.getpid()))
(folder / "started.part").rename(folder / "started")
time.sleep(300)
"""
DEAF = WAIT.replace("sys.exit(128 + number)", "pass").replace("time.sleep(300)", "while True: time.sleep(1)")


def runs_in(folder, count=2):
    return [Run(f"arm seed {k}", folder / "config.yaml", k, folder / f"seed-{k}", steps=4) for k in range(count)]


def script(text):
    return lambda run: [sys.executable, "-c", text, str(run.folder)]


def console():
    return Console(file=io.StringIO(), width=200)


def printed(screen):
    return screen.file.getvalue()


def never():
    return StopRequest(lambda: None)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_run_is_run_and_tidied(tmp_path, jobs):
    runs, screen = runs_in(tmp_path), console()
    assert run_side_by_side(runs, jobs, screen, never(), script(FINISH)) == []
    for run in runs:
        assert is_done(run.folder)
        assert not (run.folder / "checkpoint-2").exists()
        assert run.log.read_text() == "trained\n"
    assert "done: arm seed 0" in printed(screen)


def test_what_is_done_is_not_run_again(tmp_path):
    runs, screen = runs_in(tmp_path), console()
    run_side_by_side(runs[:1], 1, screen, never(), script(FINISH))
    (runs[0].folder / "checkpoint-4").mkdir()  # as if it was stopped before it tidied
    started = []

    def command(run):
        started.append(run)
        return script(FINISH)(run)

    assert run_side_by_side(runs, 1, screen, never(), command) == []
    assert started == runs[1:]
    assert not (runs[0].folder / "checkpoint-4").exists()
    assert "1 of 2 runs are done already" in printed(screen)


@pytest.mark.parametrize("missing", ["model/whole.json", "evaluation/after-training/summary.json"])
def test_a_run_without_all_of_its_result_is_not_done(tmp_path, missing):
    (run,) = runs_in(tmp_path, 1)
    run_side_by_side([run], 1, console(), never(), script(FINISH))
    (run.folder / missing).unlink()
    assert not is_done(run.folder)


def test_a_model_that_lost_a_file_is_not_done(tmp_path):
    (run,) = runs_in(tmp_path, 1)
    run_side_by_side([run], 1, console(), never(), script(FINISH))
    (run.folder / "model" / "weights").write_text("w")
    mark_whole(run.folder / "model")
    assert is_done(run.folder)
    (run.folder / "model" / "weights").write_text("")
    assert not is_done(run.folder)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    runs, screen = runs_in(tmp_path, 3), console()
    failures = run_side_by_side(runs, 1, screen, never(), lambda run: script(FAIL if run.seed == 0 else FINISH)(run))
    assert [(failure.run, failure.code) for failure in failures] == [(runs[0], 2)]
    assert str(failures[0]) == f"arm seed 0: exit code 2, log: {runs[0].log}\n    all is lost"
    assert all(is_done(run.folder) for run in runs[1:])
    assert "failed: arm seed 0" in printed(screen)


def test_a_run_that_ends_without_a_result_failed(tmp_path):
    runs = runs_in(tmp_path, 1)
    (failure,) = run_side_by_side(runs, 1, console(), never(), script("pass"))
    assert failure.code == 0
    assert str(failure) == f"arm seed 0: exit code 0, log: {runs[0].log}"


def test_what_a_run_prints_comes_after_what_it_printed_before(tmp_path):
    runs = runs_in(tmp_path, 1)
    for text in ("print('first')", "print('second')"):
        run_side_by_side(runs, 1, console(), never(), script(text))
    assert runs[0].log.read_text() == "first\nsecond\n"


def test_the_cores_are_shared_unless_somebody_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr("tspo.training.side_by_side._cores", lambda: 8)
    for jobs, said, threads in ((3, None, "2"), (9, None, "1"), (1, None, "8"), (1, "5", "5")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if said:
            monkeypatch.setenv("OMP_NUM_THREADS", said)
        runs = runs_in(tmp_path / f"{jobs}-{said}", 1)
        run_side_by_side(runs, jobs, console(), never(), script(FINISH))
        assert (runs[0].folder / "threads").read_text() == threads


def send_when_started(runs, *numbers):
    """Signals to this process, one by one, once all `runs` have started; the second when the first has arrived."""

    def send():
        for run in runs:
            wait_for(run.folder / "started")
        for number in numbers:
            os.kill(os.getpid(), number)
            for run in runs if len(numbers) > 1 else ():
                wait_for(run.folder / "stopped")

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_as_one_request_to_stop(tmp_path, number):
    runs, screen = runs_in(tmp_path, 3), console()
    thread = send_when_started(runs[:2], number)
    with stop_on_signals(lambda: None) as stop:
        assert run_side_by_side(runs, 2, screen, stop, script(WAIT)) == [], "a stopped run did not fail"
    thread.join()
    assert stop.signal_number == number
    for run in runs[:2]:
        assert (run.folder / "stopped").read_text() == str(int(signal.SIGTERM))
        assert gone(int((run.folder / "started").read_text()))
    assert not runs[2].folder.exists(), "a run was started after the signal"


def test_a_second_signal_kills(tmp_path):
    runs = runs_in(tmp_path, 2)
    thread = send_when_started(runs, signal.SIGTERM, signal.SIGINT)
    with stop_on_signals(lambda: None) as stop, pytest.raises(KeyboardInterrupt):
        run_side_by_side(runs, 2, console(), stop, script(DEAF))
    thread.join()
    assert all(gone(int((run.folder / "started").read_text())) for run in runs)


def test_a_run_is_resumed_where_its_folder_holds_one(tmp_path):
    (run,) = runs_in(tmp_path / "a b: {c}", 1)
    assert train_command(run)[1:5] == ["-m", "tspo", "train", str(run.config)]
    assert train_command(run)[-2:] == [f"output_dir={json.dumps(str(run.folder))}", "seed=0"]
    run.folder.mkdir(parents=True)
    assert "--resume" not in train_command(run)
    (run.folder / "config.yaml").write_text("seed: 0")
    assert train_command(run)[-1] == "--resume"


@pytest.mark.parametrize(
    ("text", "step"),
    [
        (None, 0),
        ("", 0),
        ('{"step": 3}\n', 3),
        ('{"step": 3}\n{"step": 4', 3),
        ('{"step": 3}\nnot json\n', 3),
        ("{" * 70_000 + '\n{"step": 9}\n', 9),
    ],
)
def test_the_step_is_that_of_the_last_whole_line(tmp_path, text, step):
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_text(text)
    assert last_step(path) == step


PARENT = """
import io, pathlib, sys
from rich.console import Console
from tspo.training.side_by_side import Run, run_side_by_side
from tspo.training.signals import StopRequest
folder = pathlib.Path(sys.argv[1])
run = Run("arm", folder / "config.yaml", 0, folder / "seed-0", steps=4)
script = lambda run: [sys.executable, "-c", sys.argv[2], str(run.folder)]
run_side_by_side([run], 1, Console(file=io.StringIO()), StopRequest(lambda: None), script)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is told by Linux alone")
def test_a_parent_that_is_killed_leaves_no_run_behind(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), WAIT])
    wait_until((tmp_path / "seed-0" / "started").exists)
    child = int((tmp_path / "seed-0" / "started").read_text())
    parent.kill()
    parent.wait()
    wait_until((tmp_path / "seed-0" / "stopped").exists)
    assert (tmp_path / "seed-0" / "stopped").read_text() == str(int(signal.SIGTERM))
    wait_until(lambda: not is_running(child))


def test_a_run_that_is_still_saving_is_waited_for(tmp_path):
    run = runs_in(tmp_path, 1)[0]
    run.folder.mkdir()
    lock = run.folder / ".lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=_wait_for, args=(lock,))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def wait_until(true):
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def is_running(process):
    try:
        return "\nState:\tZ" not in open(f"/proc/{process}/status").read()
    except OSError:
        return False
