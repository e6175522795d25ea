import pytest

from tspo.errors import BadInput
from tspo.viewer.source import AFTER_TRAINING, open_source


def test_a_run_has_its_steps_and_evaluations_on_one_axis(make_run):
    source = open_source(make_run())
    assert [(one.path.parent.name, one.at) for one in source.files()] == [
        ("trajectories", 1),
        ("trajectories", 2),
        ("trajectories", 3),
        ("before", -2),
        ("after-training", AFTER_TRAINING),
    ]
    assert source.credit().algorithm == "tspo"
    assert len(source.metrics()) == 3


def test_a_trajectory_file_stands_alone(tmp_path, write, make_group):
    path = tmp_path / "a.jsonl"
    write(path, make_group("g", "right"))
    source = open_source(path)
    assert source.name == "a.jsonl"
    assert [one.path for one in source.files()] == [path]
    assert source.metrics() == []
    assert source.index_path == tmp_path / ".a.jsonl.view.sqlite"


def test_an_evaluation_s_folder_can_be_looked_at(tmp_path, write, make_group):
    write(tmp_path / "trajectories.jsonl", make_group("q", "right"))
    assert [(one.path.name, one.at) for one in open_source(tmp_path).files()] == [("trajectories.jsonl", 0)]


def test_a_run_that_has_just_begun_can_be_looked_at(tmp_path):
    (tmp_path / "config.yaml").write_text("credit: {algorithm: grpo}\n")
    assert open_source(tmp_path).files() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [(None, "is not there"), ("", "holds no run"), ("credit: {alpha: 7}\n", "config.yaml: credit: alpha: 7")],
)
def test_what_cannot_be_shown_is_named(tmp_path, settings, said):
    place = tmp_path / "run"
    if settings is not None:
        place.mkdir()
    if settings:
        (place / "config.yaml").write_text(settings)
    with pytest.raises(BadInput, match=said):
        open_source(place)
