from typing import Any

import pytest

pytest.importorskip("peft")

from tspo.errors import NotFinite
from tspo.training import loop
from tspo.training.loop import train
from tspo.training.training_state import Progress

START = Progress()


class Run:
    """What a loop does, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.stops_after: int | None = None
        self.breaks_in: int | None = None
        self.skips: tuple[int, ...] = ()

    def step(self, step: int, inputs: Any, settings: Any) -> dict[str, float]:
        assert (inputs, settings) == ("inputs", "settings")
        self.events.append(f"step {step}")
        if step == self.breaks_in:
            raise NotFinite("model: nan")
        return {"loss": step / 10, "skipped": float(step in self.skips), "tokens": 100.0}

    def __bool__(self) -> bool:
        return self.events[-1]["step"] == self.stops_after

    def train(self, steps: int, save_every: int, done: Progress = START) -> Progress:
        return train(
            "inputs",
            "settings",
            steps=steps,
            done=done,
            save_every=save_every,
            save=self.events.append,
            on_step=self.events.append,
            stop=self,
        )

    @property
    def saved(self) -> list[Progress]:
        return [event for event in self.events if isinstance(event, Progress)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run()
    monkeypatch.setattr(loop, "training_step", run.step)
    return run


def test_each_step_has_its_line_and_checkpoints_come_after_it(run: Run) -> None:
    assert run.train(steps=3, save_every=2) == Progress(3, 300)
    assert run.events == [
        "step 1",
        {"step": 1, "loss": 0.1, "skipped": 0.0, "tokens_seen": 100},
        "step 2",
        {"step": 2, "loss": 0.2, "skipped": 0.0, "tokens_seen": 200},
        Progress(2, 200),
        "step 3",
        {"step": 3, "loss": 0.3, "skipped": 0.0, "tokens_seen": 300},
        Progress(3, 300),
    ]


def test_a_resumed_run_goes_on_from_where_it_was(run: Run) -> None:
    assert run.train(steps=4, save_every=10, done=Progress(2, 250)) == Progress(4, 450)
    assert [event for event in run.events if isinstance(event, str)] == ["step 3", "step 4"]
    assert run.saved == [Progress(4, 450)]


def test_a_stop_saves_and_ends_it(run: Run) -> None:
    run.stops_after = 2
    assert run.train(steps=9, save_every=5) == Progress(2, 200)
    assert run.saved == [Progress(2, 200)]


@pytest.mark.parametrize("stops_after", [None, 4])
def test_a_checkpoint_that_is_due_for_several_reasons_is_saved_once(run: Run, stops_after: int | None) -> None:
    run.stops_after = stops_after
    run.train(steps=4, save_every=2)
    assert [progress.step for progress in run.saved] == [2, 4]


def test_a_run_that_is_done_does_nothing(run: Run) -> None:
    assert run.train(steps=3, save_every=1, done=Progress(3, 30)) == Progress(3, 30)
    assert run.events == []


def test_steps_in_a_row_without_a_finite_gradient_end_it_with_a_checkpoint_to_go_on_from(run: Run) -> None:
    run.skips = (2, 3, 5, 6, 7)
    with pytest.raises(NotFinite, match=r"^step 7: no gradient was finite in 3 steps") as error:
        run.train(steps=20, save_every=4)
    assert "\n" not in str(error.value)
    assert [progress.step for progress in run.saved] == [4]
    assert run.events[-1]["step"] == 7


def test_a_policy_that_cannot_be_sampled_from_ends_it_with_the_step(run: Run) -> None:
    run.breaks_in = 3
    with pytest.raises(NotFinite, match=r"^step 3: model: nan$"):
        run.train(steps=20, save_every=2)
    assert [progress.step for progress in run.saved] == [2]
