"""How `tspo view` bears many trajectories: time and memory of the index, and how long a page takes.

    python benchmarks/viewer.py --trajectories 100000

Makes a trajectory file of that many (5 a group, tokens among them), starts `tspo view` on it twice, without an index
and with the one that the first left, and asks for pages as the browser does. Memory is the most that the server's
process had.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

_MEMBERS = 5
_TOKENS = 60
_ASKED = 15
_REQUESTS = {
    "the first page of the list": "api/runs/0/groups",
    "its last page": "api/runs/0/groups?offset={last}",
    "near misses without a right answer": "api/runs/0/groups?state=near%20miss&all_wrong=true",
    "a search that finds 20 groups": "api/runs/0/groups?text=nr%20{number:05d}",
    "a search that finds nothing": "api/runs/0/groups?text=nowhere",
    "a group with its history": "api/runs/0/groups/{number}",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=100_000)
    args = parser.parse_args()
    groups = args.trajectories // _MEMBERS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trajectories.jsonl"
        write(path, groups)
        print(f"{groups * _MEMBERS:,} trajectories in {path.stat().st_size / 1e6:,.0f} MB")
        for state in ("without an index", "with the index"):
            started = time.perf_counter()
            server = subprocess.Popen(
                [sys.executable, "-m", "tspo", "view", str(path), "--port", "0"], stdout=subprocess.PIPE, text=True
            )
            try:
                address = server.stdout.readline().split()[1] if server.stdout else ""
                print(f"ready {state}: {time.perf_counter() - started:.1f} s, {peak(server.pid)} MB")
                if state == "with the index":
                    index = path.with_name(f".{path.name}.view.sqlite").stat().st_size
                    print(f"the index: {index / 1e6:,.0f} MB\n")
                    ask(address, groups)
                    print(f"\nafter all that: {peak(server.pid)} MB")
            finally:
                server.terminate()
                server.wait()


def ask(address: str, groups: int) -> None:
    """Print the median and the worst time of each kind of request."""
    print(f"| milliseconds, of {_ASKED} | median | most |\n| --- | --- | --- |")
    generator = random.Random(0)
    with httpx.Client(base_url=address, timeout=120) as client:
        for name, path in _REQUESTS.items():
            times = []
            for _ in range(_ASKED):
                asked = path.format(last=groups - 60, number=generator.randrange(1, groups // 20))
                started = time.perf_counter()
                client.get(f"/{asked}").raise_for_status()
                times.append((time.perf_counter() - started) * 1000)
            print(f"| {name} | {statistics.median(times):.1f} | {max(times):.1f} |")


def write(path: Path, groups: int) -> None:
    """Write a trajectory file as training does: 3 searches and an answer, some right, some near misses."""
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for group in range(groups):
            question = f"What is nr {group % max(groups // 20, 1):05d} of the things that are to be found?"
            for member in range(_MEMBERS):
                found, right = generator.randrange(5), generator.random() < 0.3
                turns = [turn(f"<search>thing {k}</search>", passage(k == found)) for k in range(3)]
                turns.append(turn(f"<answer>{'Ann Arbor' if right else 'Bob'}</answer>", None))
                line = {
                    "group_id": f"{group:06d}",
                    "trajectory_id": f"{group:06d}-{member}",
                    "question": question,
                    "golden_answers": ["Ann Arbor"],
                    "turns": turns,
                    "step": group // 8,
                }
                stream.write(json.dumps(line) + "\n")


def turn(action: str, feedback: str | None) -> dict[str, object]:
    """One turn with its tokens."""
    text = "<think>I need to look for more of it.</think>" + action
    ends = [len(text) * (k + 1) // _TOKENS for k in range(_TOKENS)]
    return {
        "text": text,
        "feedback": feedback,
        "token_ids": list(range(_TOKENS)),
        "logprobs": [-0.1234567891234] * _TOKENS,
        "token_ends": ends,
    }


def passage(holds_the_answer: bool) -> str:
    """A passage of 60 words."""
    words = " ".join(f"word{k}" for k in range(60))
    return f'Doc 1(Title: "A thing") {words} {"Ann Arbor" if holds_the_answer else "elsewhere"}.\n'


def peak(pid: int) -> int:
    """The most memory that a process had, in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


if __name__ == "__main__":
    main()
