"""How long a new process takes: importing tspo, `tspo --help`, `tspo credit` on 1,000 trajectories.

    python benchmarks/startup.py

The floor is `python -c pass`. Beside them what TRL's trainer takes to be imported. Median, [least, greatest] of 7
rounds in which they take turns, in milliseconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROUNDS = 7
COMMAND = "from tspo.cli import main; raise SystemExit(main())"


def write_trajectories(path: Path) -> None:
    """200 groups of five; the answer is found in one of two searches, or not at all."""
    with path.open("w") as stream:
        for group in range(200):
            for member in range(5):
                found = "It is by Ann Lee. " if member % 2 else ""
                passages = found + "A long passage about something else altogether. " * 30
                search = {"text": "<search>who wrote it</search>", "feedback": passages}
                answer = {"text": f"<answer>{'Ann Lee' if member == 4 else 'Bob'}</answer>"}
                line = {"group_id": str(group), "question": "Who wrote it?", "golden_answers": ["Ann Lee"]}
                stream.write(json.dumps(line | {"turns": [search, search, answer]}) + "\n")


def main() -> None:
    """Measure, and print the table."""
    with TemporaryDirectory() as folder:
        trajectories = Path(folder) / "in.jsonl"
        write_trajectories(trajectories)
        credit = ["credit", str(trajectories), "--out", str(Path(folder) / "out.jsonl")]
        measured = {
            "python -c pass (the floor)": ["-c", "pass"],
            "import tspo": ["-c", "import tspo"],
            "tspo --help": ["-c", COMMAND, "--help"],
            "tspo credit, 1,000 trajectories": ["-c", COMMAND, *credit],
            "from trl import GRPOTrainer": ["-c", "from trl import GRPOTrainer"],
        }
        taken: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(ROUNDS + 1):
            for name, arguments in measured.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                taken[name].append(1e3 * (time.perf_counter() - started))
                (Path(folder) / "out.jsonl").unlink(missing_ok=True)
    for name, values in taken.items():
        counted = values[1:]  # the first fills the disk's cache
        print(f"{name:<34}{statistics.median(counted):>8,.0f} [{min(counted):,.0f}, {max(counted):,.0f}]")


if __name__ == "__main__":
    main()
