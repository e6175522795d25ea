"""`tspo view` as a user starts it."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx

from tspo.cli import main
from tspo.trajectory import write_json_line

COMMAND = [sys.executable, "-c", "import sys; from tspo.cli import main; sys.exit(main())", "view"]


@pytest.fixture
def trajectories(tmp_path):
    path = tmp_path / "some.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for member in range(3):
            write_json_line(
                {
                    "group_id": "g",
                    "trajectory_id": f"g-{member}",
                    "question": "Where?",
                    "golden_answers": ["Rome"],
                    "turns": [{"text": f"<answer>{'Rome' if member else 'Bergen'}</answer>"}],
                },
                stream,
            )
    return path


def refused(capsys, *arguments):
    assert main(["view", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_it_serves_until_a_signal(trajectories):
    process = subprocess.Popen(
        [*COMMAND, str(trajectories), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        address = re.fullmatch(r"open (http://127\.0\.0\.1:\d+) \(Ctrl-C ends\)\n", line).group(1)
        assert "<title>tspo view</title>" in httpx.get(address).text
        assert httpx.get(f"{address}/api/runs").json()["runs"][0]["trajectories"] == 3
        assert httpx.get(f"{address}/api/runs", headers={"Host": "evil.example"}).status_code == 421
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_one_line(trajectories, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, trajectories, "--port", port)
    assert f"127.0.0.1:{port}: cannot listen here (Address already in use); choose another --port" in said


def test_a_file_cut_in_the_middle_is_one_line(trajectories, capsys):
    trajectories.write_bytes(trajectories.read_bytes()[:-20])
    said = refused(capsys, trajectories, "--port", "0")
    assert f"{trajectories}, line 3: the file is cut in the middle of this line" in said
    assert "cut in the middle" in refused(capsys, trajectories, "--static", trajectories.parent / "page.html")
    assert not (trajectories.parent / "page.html").exists()


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert "is not there" in refused(capsys, tmp_path / "missing")
    assert "holds no run" in refused(capsys, tmp_path)
    run = tmp_path / "runs" / "algorithm=tspo" / "seed-0"
    run.mkdir(parents=True)
    (tmp_path / "grid.json").write_text("{}")
    assert f"holds a comparison of 1 runs; name one of them, for example {run}" in refused(capsys, tmp_path)


def test_a_static_file_is_written_and_named(trajectories, capsys):
    path = trajectories.parent / "page.html"
    assert main(["view", str(trajectories), "--static", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert "Bergen" in path.read_text(encoding="utf-8")
    assert "--trajectories 0" in refused(capsys, trajectories, "--static", path, "--trajectories", "0")


def test_without_the_serve_extra_it_says_what_to_install(trajectories, capsys, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else real(name))
    assert "pip install 'tspo[serve]'" in refused(capsys, trajectories)


def test_torch_is_not_needed(trajectories):
    script = (
        "import sys; from tspo.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    arguments = ["view", str(trajectories), "--static", os.devnull]
    assert subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True).returncode == 0
