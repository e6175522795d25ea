import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from tspo.errors import BadInput
from tspo.training.checkpoints import (
    begin,
    check_has_state,
    checkpoint_to_resume,
    checkpoints_in,
    is_whole,
    last_whole_checkpoint,
    mark_whole,
    remove_old_checkpoints,
    step_of,
    step_of_mark,
)


def checkpoint(folder, step, whole=True):
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "weights").write_bytes(b"12345")
    (path / "inner" / "state").write_bytes(b"")
    if whole:
        mark_whole(path)
    return path


def test_a_marked_checkpoint_is_whole(tmp_path):
    path = checkpoint(tmp_path, 1, whole=False)
    assert not is_whole(path)
    mark_whole(path)
    assert is_whole(path)
    nothing, five = (hashlib.sha256(written).hexdigest() for written in (b"", b"12345"))
    files = {"inner/state": {"bytes": 0, "sha256": nothing}, "weights": {"bytes": 5, "sha256": five}}
    assert json.loads((path / "whole.json").read_text()) == {"step": None, "files": files}
    mark_whole(path, 7)
    assert is_whole(path)
    assert step_of_mark(path) == 7


def test_a_mark_of_an_older_version_has_sizes_alone(tmp_path):
    path = checkpoint(tmp_path, 1)
    (path / "whole.json").write_text('{"files": {"inner/state": 0, "weights": 5}}')
    assert is_whole(path)
    assert step_of_mark(path) is None
    assert checkpoint_to_resume(tmp_path) == path
    cut(path)
    assert not is_whole(path)


def test_what_a_killed_write_left_is_no_part_of_a_checkpoint(tmp_path):
    path = checkpoint(tmp_path, 1, whole=False)
    (path / ".weights.x1.part").write_text("half")
    begin(path)
    mark_whole(path)
    assert sorted(file.name for file in path.iterdir()) == ["inner", "weights", "whole.json"]


def cut(path):
    (path / "weights").write_bytes(b"1234")


def grow(path):
    (path / "inner" / "state").write_bytes(b"x")


def lose(path):
    (path / "inner" / "state").unlink()


def lose_mark(path):
    (path / "whole.json").unlink()


@pytest.mark.parametrize("harm", [cut, grow, lose, lose_mark])
def test_a_harmed_checkpoint_is_not_whole(tmp_path, harm):
    path = checkpoint(tmp_path, 1)
    harm(path)
    assert not is_whole(path)


@pytest.mark.parametrize("mark", ["", "{", "{}", "[]", "null", '{"files": 3}', '{"files": ["weights"]}', "\ufffd"])
def test_a_mark_that_cannot_be_read_marks_nothing(tmp_path, mark):
    path = checkpoint(tmp_path, 1)
    (path / "whole.json").write_text(mark)
    assert not is_whole(path)


def test_a_file_that_came_later_does_no_harm(tmp_path):
    path = checkpoint(tmp_path, 1)
    (path / "more").write_text("x")
    assert is_whole(path)


def test_the_last_whole_checkpoint_by_number(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    for step in (100, 9, 20):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 110, whole=False)
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"checkpoint-{step}" for step in (9, 20, 100, 110)]
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    cut(tmp_path / "checkpoint-100")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-20"


def test_one_flipped_bit_is_told_before_anything_is_learned_from_it(tmp_path):
    checkpoint(tmp_path, 1)
    path = checkpoint(tmp_path, 2)
    assert checkpoint_to_resume(tmp_path) == path
    (path / "weights").write_bytes(b"12345"[:4] + b"4")
    with pytest.raises(BadInput, match=r"checkpoint-2/weights: is damaged .*; move checkpoint-2 away to go on from"):
        checkpoint_to_resume(tmp_path)
    path.rename(tmp_path / "away")
    assert checkpoint_to_resume(tmp_path) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize("harm", [cut, grow, lose, lose_mark])
def test_a_damaged_checkpoint_is_named_and_never_thrown_away(tmp_path, harm):
    checkpoint(tmp_path, 1)
    path = checkpoint(tmp_path, 2)
    harm(path)
    before = sorted(file.name for file in path.rglob("*"))
    with pytest.raises(BadInput, match=r"checkpoint-2: is damaged, or not of this run .* to go on from checkpoint-1$"):
        checkpoint_to_resume(tmp_path)
    assert sorted(file.name for file in path.rglob("*")) == before
    path.rename(tmp_path / "away")
    assert checkpoint_to_resume(tmp_path) == tmp_path / "checkpoint-1"


def test_a_flipped_bit_in_the_only_mark_does_not_begin_the_run_anew(tmp_path):
    path = checkpoint(tmp_path, 1)
    (path / "whole.json").write_bytes(b"\xfb" + (path / "whole.json").read_bytes()[1:])
    with pytest.raises(BadInput, match=r"\(whole.json cannot be read\); mend it, or move it away to begin anew$"):
        checkpoint_to_resume(tmp_path)
    assert (path / "weights").exists()


def test_a_mark_that_the_system_cannot_read_is_told(tmp_path, monkeypatch):
    path = checkpoint(tmp_path, 1)

    def fails(self, *args, **named):
        raise OSError(errno.EIO, "Input/output error", str(self))

    monkeypatch.setattr(Path, "read_text", fails)
    for asked in (is_whole, lambda _: checkpoint_to_resume(tmp_path)):
        with pytest.raises(BadInput, match=r"whole.json: cannot be read \(Input/output error\); mend that first"):
            asked(path)
    assert (path / "weights").exists()


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    checkpoint(tmp_path, 1)
    begin(checkpoint(tmp_path, 2, whole=False))
    (tmp_path / "checkpoint-3").mkdir()
    assert checkpoint_to_resume(tmp_path) == tmp_path / "checkpoint-1"
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-1"]


def test_other_names_are_no_checkpoints(tmp_path):
    for name in ("checkpoint-", "checkpoint-1-old", "checkpoint--1", "checkpoint-x", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    assert checkpoints_in(tmp_path) == []
    assert step_of(tmp_path / "checkpoint-12") == 12
    assert step_of(tmp_path / "checkpoint-1-old") is None


def test_a_half_written_checkpoint_is_nothing_to_resume_from(tmp_path):
    checkpoint(tmp_path, 1, whole=False)
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "none") is None


def test_files_are_on_the_disk_before_the_mark(tmp_path, monkeypatch):
    path = checkpoint(tmp_path, 1, whole=False)
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append((path / "whole.json").exists()), fsync(fd))[1])
    mark_whole(path)
    assert synced == [False] * 3  # both files, then the mark before it is put in place


def test_the_oldest_whole_checkpoints_go(tmp_path):
    for step in (9, 20, 100, 110):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 30, whole=False)
    (tmp_path / "model").mkdir()
    remove_old_checkpoints(tmp_path, keep=2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-30", "checkpoint-100", "checkpoint-110"]
    remove_old_checkpoints(tmp_path, keep=2)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-110"
    assert is_whole(tmp_path / "checkpoint-100")
    assert (tmp_path / "model").is_dir()


def test_a_deletion_that_is_cut_short_leaves_none_that_looks_whole(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint(tmp_path, step)
    monkeypatch.setattr("shutil.rmtree", lambda path: (path / "weights").unlink())
    remove_old_checkpoints(tmp_path, keep=1)
    assert not is_whole(tmp_path / "checkpoint-1")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    monkeypatch.undo()
    assert checkpoint_to_resume(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-1").exists()


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path):
    path = checkpoint(tmp_path, 1)
    with pytest.raises(BadInput, match="written by an older version of tspo") as error:
        check_has_state(path)
    assert f"model={path}" in str(error.value)
    assert "\n" not in str(error.value)
    (path / "training_state.pt").write_bytes(b"")
    check_has_state(path)
