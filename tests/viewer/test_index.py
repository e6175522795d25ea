import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tspo.errors import BadInput
from tspo.trajectory import read_records
from tspo.viewer import index as index_module
from tspo.viewer.group_view import read_trajectory
from tspo.viewer.index import Index
from tspo.viewer.listing import Wanted, page_of_groups, summary
from tspo.viewer.source import open_source


def contents(index):
    """All that the index knows, without numbers that depend on the order of reading."""
    rows = index.connection.execute(
        "SELECT at, question, words, members, right, near, wrong, start, length, first_token, state, place, path "
        "FROM attempts JOIN member ON member.attempts = attempts.id JOIN file ON file.id = attempts.file"
    )
    return sorted(rows.fetchall())


def test_groups_are_counted_and_trajectories_found(make_run, make_index):
    index = make_index(make_run())
    assert summary(index) == {
        "groups": 8,
        "trajectories": 20,
        "states": {"right": 7, "near miss": 4, "wrong": 9},
        "first": 1,
        "last": 3,
    }
    for row in page_of_groups(index, Wanted(), 0)["groups"]:
        members = [read_trajectory(place) for place in index.places(row["id"])]
        assert len(members) == row["members"]
        assert {member.question for member in members} == {row["question"]}


def test_a_place_is_that_of_its_tokens_among_all_of_the_file(make_run, make_index):
    run = make_run()
    index = make_index(run)
    with (run / "trajectories" / "000001.jsonl").open("rb") as stream:
        trajectories = [trajectory for _, trajectory in read_records(stream, "file")]
    before = 0
    starts = {}
    for trajectory in trajectories:
        starts[trajectory.trajectory_id] = before
        before += sum(len(turn.token_ids) for turn in trajectory.turns)
    found = index.connection.execute("SELECT id FROM attempts WHERE at = 1").fetchall()
    places = [place for (number,) in found for place in index.places(number)]
    assert {read_trajectory(place).trajectory_id: place.first_token for place in places} == starts


def test_it_grows_with_the_run(make_run, make_index, write, make_group):
    run = make_run()
    index = make_index(run)
    write(run / "trajectories" / "000004.jsonl", make_group("4-0", "right"))
    index.refresh()
    assert summary(index)["last"] == 4
    assert contents(index) == contents(make_index(run))


def test_a_file_that_is_written_line_by_line_is_read_line_by_line(tmp_path, write, make_group, monkeypatch):
    path, whole = tmp_path / "a.jsonl", tmp_path / "whole.jsonl"
    monkeypatch.setattr(index_module, "_LINES_A_TRANSACTION", 2)
    write(whole, [*make_group("a", "right", "wrong"), *make_group("b", "near miss"), *make_group("a", "wrong")])
    data = whole.read_bytes()
    path.write_bytes(b"")
    index = Index(open_source(path))
    for end in (*range(0, len(data), 300), len(data)):
        path.write_bytes(data[:end])
        index.refresh()
        assert summary(index)["trajectories"] == data[:end].count(b"\n")
    assert summary(index)["groups"] == 2
    # a group's members that come later are its members all the same
    assert [row["members"] for row in page_of_groups(index, Wanted(), 0)["groups"]] == [3, 1]


@pytest.mark.parametrize("change", ["shorter", "same size", "longer", "gone"])
def test_a_file_that_has_become_another_is_read_again(make_run, make_index, write, make_group, change):
    run = make_run()
    index = make_index(run)
    before = contents(index)
    path = run / "trajectories" / "000002.jsonl"
    if change == "gone":
        path.unlink()
    elif change == "same size":
        path.write_bytes(path.read_bytes().replace(b"Ann Arbor</answer>", b"Ann Barber</answe>"))
    else:
        write(path, make_group("2-0", *["wrong"] * (1 if change == "shorter" else 20)))
    index.refresh()
    index.connection.close()
    after = contents(Index(open_source(run)))
    (run / ".view.sqlite").unlink()
    assert after == contents(make_index(run)) != before


def test_what_was_read_is_not_read_again(make_run, make_index, monkeypatch):
    run = make_run()
    make_index(run)
    monkeypatch.setattr(Index, "_add", None)
    make_index(run)


def test_it_goes_where_the_run_goes(make_run, make_index, monkeypatch):
    run = make_run()
    whole = contents(make_index(run))
    moved = run.rename(run.with_name("moved"))
    monkeypatch.chdir(moved.parent)
    monkeypatch.setattr(Index, "_add", None)
    index = make_index(Path("moved"))
    assert contents(index) == whole
    assert read_trajectory(index.places(1)[0]).question


def test_batches_are_bounded_in_bytes_too(tmp_path, write, make_group, make_index, monkeypatch):
    path = tmp_path / "a.jsonl"
    write(path, [line for k in range(10) for line in make_group(f"g{k}", "right", "wrong")])
    monkeypatch.setattr(index_module, "_BYTES_A_TRANSACTION", 1000)
    index = Index(open_source(path))
    read = []
    index.refresh(lambda done, _: read.append(done))
    assert len(read) > 5
    assert read[-1] == path.stat().st_size
    assert summary(index)["trajectories"] == 20


def test_reading_goes_on_where_it_was_cut_off(tmp_path, write, make_group, monkeypatch, make_index):
    path = tmp_path / "a.jsonl"
    write(path, [line for k in range(10) for line in make_group(f"g{k}", "right", "wrong")])
    whole = contents(make_index(path))
    (tmp_path / ".a.jsonl.view.sqlite").unlink()
    monkeypatch.setattr(index_module, "_LINES_A_TRANSACTION", 3)
    added = []
    add = Index._add

    def fails_in_the_middle(self, *args):
        added.append(args)
        if len(added) == 8:
            raise KeyboardInterrupt
        return add(self, *args)

    monkeypatch.setattr(Index, "_add", fails_in_the_middle)
    index = Index(open_source(path))
    with pytest.raises(KeyboardInterrupt):
        index.refresh()
    assert summary(index)["trajectories"] == 6  # two transactions of three; the third left nothing behind
    index.connection.close()
    assert contents(make_index(path)) == whole
    assert len(added) == 8 + 14


def test_it_is_made_anew_for_other_settings(make_run, make_index):
    run = make_run()
    before = summary(make_index(run))["states"]
    (run / "config.yaml").write_text("credit: {ignore: [Ann Arbor]}\n")
    assert before["near miss"] == 4
    assert summary(make_index(run))["states"] == {"right": 7, "near miss": 0, "wrong": 13}


def test_a_damaged_index_is_made_anew(make_run, make_index):
    run = make_run()
    whole = contents(make_index(run))
    (run / ".view.sqlite").write_bytes(b"no database at all" * 100)
    assert contents(make_index(run)) == whole


def test_where_nothing_may_be_written_the_index_is_elsewhere(make_run, make_index, monkeypatch):
    run = make_run()
    real = sqlite3.connect

    def connect(path, **options):
        if path == run / ".view.sqlite":
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    index = make_index(run)
    assert summary(index)["groups"] == 8
    assert not (run / ".view.sqlite").exists()
    assert stat.S_IMODE(index.path.parent.stat().st_mode) == 0o700


def test_a_file_cut_in_the_middle_is_one_line(tmp_path, write, make_group, make_index):
    path = tmp_path / "a.jsonl"
    write(path, make_group("g", "right", "wrong", "wrong"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput) as error:
        make_index(path)
    assert str(error.value) == (
        f"{path}, line 3: the file is cut in the middle of this line; "
        "keep the 2 lines before it, or copy the file again"
    )


def test_a_line_that_is_no_trajectory_is_named(tmp_path, write, make_group, make_index):
    path = tmp_path / "a.jsonl"
    write(path, [*make_group("g", "right"), {"group_id": "g"}])
    with pytest.raises(BadInput, match=r"a\.jsonl, line 2: field 'turns' is missing"):
        make_index(path)


def test_half_a_surrogate_pair_is_indexed(tmp_path, make_index):
    path = tmp_path / "a.jsonl"
    line = r'{"group_id": "\ud800", "question": "\ud800?", "golden_answers": ["a"], "turns": [{"text": "\udc00"}]}'
    path.write_text(line + "\n")
    (row,) = page_of_groups(make_index(path), Wanted(), 0)["groups"]
    assert row["question"] == "‹U+D800›?"


def test_two_viewers_index_a_run_once(tmp_path, write, make_group):
    path = tmp_path / "a.jsonl"
    write(path, [line for k in range(3000) for line in make_group(f"g{k}", "right")])
    script = (
        "import sys; from pathlib import Path; from tspo.viewer.index import Index; "
        "from tspo.viewer.source import open_source; Index(open_source(Path(sys.argv[1]))).refresh(growing=False)"
    )
    viewers = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(3)]
    assert [viewer.wait() for viewer in viewers] == [0, 0, 0]
    assert summary(Index(open_source(path)))["trajectories"] == 3000


@pytest.mark.slow
def test_an_index_whose_maker_was_killed_is_gone_on_with(tmp_path, write, make_group, make_index):
    path = tmp_path / "a.jsonl"
    write(path, [line for k in range(4000) for line in make_group(f"g{k}", "right", "wrong")])
    script = (
        "import os, signal, sys; from pathlib import Path; from tspo.viewer import index; "
        "from tspo.viewer.source import open_source; index._LINES_A_TRANSACTION = 50\n"
        "made = []; add = index.Index._add\n"
        "def dying(*args):\n"
        "    made.append(1)\n"
        "    if len(made) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return add(*args)\n"
        "index.Index._add = dying\n"
        "index.Index(open_source(Path(sys.argv[1]))).refresh()"
    )
    for lines in (1, 2077, 3333):
        result = subprocess.run([sys.executable, "-c", script, str(path), str(lines)])
        assert result.returncode == -signal.SIGKILL
    index = make_index(path)
    assert summary(index) == {
        "groups": 4000,
        "trajectories": 8000,
        "states": {"right": 4000, "near miss": 0, "wrong": 4000},
        "first": 0,
        "last": 0,
    }
