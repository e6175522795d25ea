from pathlib import Path

import pytest

from tspo.cli import main
from tspo.datasets.corpus import read_corpus
from tspo.datasets.questions import read_questions
from tspo.datasets.world import make_questions, make_world, passages, world_files, write_world
from tspo.datasets.world.files import WorldSettings
from tspo.errors import BadInput

SMALL = WorldSettings(passages=200, train_questions=12, test_questions=6, hops=(1, 2), seed=3)


def test_the_files_hold_the_world(tmp_path: Path) -> None:
    files = write_world(SMALL, tmp_path)
    world = make_world(200, 3)
    split = make_questions(world, 12, 6, (1, 2), 3)
    assert list(read_corpus(files.corpus)) == list(passages(world))
    assert read_questions([files.train]) == [made.question for made in split.train]
    assert read_questions([files.test]) == [made.question for made in split.test]


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_world(SMALL, tmp_path / "a"), write_world(SMALL, tmp_path / "b")
    assert first.corpus.read_bytes() == second.corpus.read_bytes()
    assert first.train.read_bytes() == second.train.read_bytes()


def test_whole_files_are_kept_and_half_written_ones_made_again(tmp_path: Path) -> None:
    files = world_files(SMALL, tmp_path)
    before = files.corpus.stat().st_mtime_ns
    assert world_files(SMALL, tmp_path) == files
    assert files.corpus.stat().st_mtime_ns == before
    (files.corpus.parent / "settings.json").unlink()
    files.corpus.write_text("half")
    assert list(read_corpus(world_files(SMALL, tmp_path).corpus)) == list(passages(make_world(200, 3)))


def test_other_settings_have_another_place(tmp_path: Path) -> None:
    others = [
        WorldSettings(passages=201, train_questions=12, test_questions=6, hops=(1, 2), seed=3),
        WorldSettings(passages=200, train_questions=12, test_questions=6, hops=(2, 1), seed=3),
        WorldSettings(passages=200, train_questions=12, test_questions=6, hops=(1, 2), seed=4),
    ]
    assert len({world_files(settings, tmp_path).corpus for settings in (SMALL, *others)}) == 4


@pytest.mark.parametrize("hops", [(), (0,), (4,), (1, 1)])
def test_hops_that_there_are_not_are_refused(hops: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="hops"):
        WorldSettings(hops=hops)


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "world"
    assert main(["world", str(folder), "--passages", "150", "--train", "6", "--test", "3", "--hops", "2"]) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"{name}.jsonl") for name in ("corpus", "train", "test")]
    assert len(read_questions([folder / "train.jsonl"])) == 6


@pytest.mark.parametrize("arguments", [["--hops", "x"], ["--passages", "5"], ["--train", "0"], ["--train", "100000"]])
def test_the_command_refuses_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["world", str(tmp_path / "world"), "--passages", "150", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "world").exists()


def test_a_place_that_is_a_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["world", str(tmp_path / "taken"), "--passages", "150", "--train", "6", "--test", "3"]) == 2
    assert "choose another folder" in capsys.readouterr().err
