"""The program in docs/trl.md runs, and learns what the page shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

PAGE = Path(__file__).parents[2] / "docs" / "trl.md"
NUMBER = re.compile(r"\d+\.\d+")


def test_the_program_runs_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    """Its last digits are another machine's, so that of the numbers only their course is compared."""
    program, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE.read_text(), re.DOTALL).groups()
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    printed = [line for line in result.stdout.splitlines() if line.startswith("step")]
    assert [NUMBER.sub("", line) for line in printed] == [NUMBER.sub("", line) for line in shown.splitlines()]
    first, *_, last = (float(NUMBER.findall(line)[0]) for line in printed)
    assert last > first + 0.2
