"""A hundred thousand trajectories: never all of them in memory, and any page of them at hand."""

import subprocess
import sys

import pytest

from tspo.viewer.index import Index
from tspo.viewer.listing import Wanted, page_of_groups, summary
from tspo.viewer.source import open_source

GROUPS, MEMBERS = 20_000, 5

INDEX_IN_A_PROCESS = """
import resource, sys
from pathlib import Path
from tspo.viewer.index import Index
from tspo.viewer.source import open_source
index = Index(open_source(Path(sys.argv[1])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
index.refresh(growing=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_hundred_thousand_trajectories_are_indexed_and_paged(tmp_path, make_group, write):
    path = tmp_path / "many.jsonl"
    endings = ["right", "near miss", "wrong", "wrong", "wrong"]
    lines = (
        line | {"step": number // 8}
        for number in range(GROUPS)
        for line in make_group(f"g{number}", *endings, question=f"Q {number % 900}")
    )
    write(path, lines)
    assert path.stat().st_size > 50e6

    result = subprocess.run(
        [sys.executable, "-c", INDEX_IN_A_PROCESS, str(path)], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 25_000  # kilobytes, of a file of more than 50,000

    index = Index(open_source(path))
    index.refresh()
    assert summary(index)["trajectories"] == GROUPS * MEMBERS
    last = page_of_groups(index, Wanted(), GROUPS - 1)
    assert last["total"] == GROUPS
    (row,) = last["groups"]
    assert row["at"] == (GROUPS - 1) // 8
    assert page_of_groups(index, Wanted(text="q 899"), 0)["total"] == GROUPS // 900
    assert len(index.places(row["id"])) == MEMBERS
