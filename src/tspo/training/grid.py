"""The grid of a comparison: arms, each a name and the settings that make it, with equal budgets, over seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo.bounded_yaml import load_yaml
from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.files import atomic_write
from tspo.old_settings import without_old_settings
from tspo.training.run_folder import MAY_CHANGE, changed_settings

DEFAULT_ARMS = (("credit.algorithm=grpo",), ("credit.algorithm=tspo",))
SET_BY_THE_GRID = ("seed", "output_dir")
"""Settings that no arm may have: each run of the grid has its own."""

_EPISODES = ("steps", "groups_per_step", "group_size")
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Arm:
    """A name that is safe as a folder's, the `key=value`s that make the arm, and its whole settings.

    The settings are those of a configuration file, but for SET_BY_THE_GRID.
    """

    name: str
    overrides: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def episodes_per_rollout(self) -> int:
        """Trajectories of one step: groups x group size."""
        training = self.settings["training"]
        return int(training["groups_per_step"] * training["group_size"])


@dataclass(frozen=True, slots=True)
class Grid:
    """Every arm is run with every seed; the first arm is the one that others are compared with."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]


def arm_overrides(vary: Sequence[str], arms: Sequence[str]) -> list[tuple[str, ...]]:
    """The `key=value`s of each arm: the product of all `KEY=V1,V2`, then each "key=value key=value".

    With neither, DEFAULT_ARMS. Raises BadInput where one is not of that form.
    """
    varied = list(itertools.product(*map(_varied, vary))) if vary else []
    return [*varied, *map(_split, arms)] or list(DEFAULT_ARMS)


def make_arm(overrides: Sequence[str], load: Callable[[Sequence[str]], RunConfig]) -> Arm:
    """The arm that `overrides` make of the configuration that `load` reads and checks.

    Raises BadInput where its runs could not train.
    """
    check_left_to_the_grid(overrides)
    config, name = load(overrides), arm_name(overrides)
    try:
        config.credit.to_config().check_no_critic()
    except BadInput as error:
        raise BadInput(f"arm {name!r}: {error}") from None
    return Arm(name, tuple(overrides), json.loads(config.model_dump_json(exclude=set(SET_BY_THE_GRID))))


def check_left_to_the_grid(overrides: Sequence[str]) -> None:
    """Raise BadInput for a setting that the grid gives each run."""
    for override in overrides:
        if (key := override.partition("=")[0].strip()) in SET_BY_THE_GRID:
            raise BadInput(f"{override}: {key} is set for each run of a comparison; use --seeds and --out")


def arm_name(overrides: Sequence[str]) -> str:
    """`algorithm=tspo alpha=0.3`: a folder's name that says what makes the arm, the same whatever other arms there are.

    The sections credit and training are left out, as no two of their keys are the same. Where characters had to be
    replaced, the start of a checksum keeps the name apart from its like.
    """
    plain = " ".join(_readable(override) for override in overrides) or "base"
    safe = re.sub(r"[^A-Za-z0-9=._+ -]+", "-", plain)[:_LONGEST_NAME].strip(" .-")
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-3,7` as 0, 1, 2, 3, 7; raises BadInput where that is not numbers and ranges, or one is there twice."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= 2**32 or last - first >= 10_000:
            raise BadInput(f"--seeds {text!r}: expected numbers and ranges from 0, for example 0-7 or 0,1,2")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds {text!r}: a seed is there twice")
    return tuple(seeds)


def check_arms(arms: Sequence[Arm]) -> None:
    """Raise BadInput where two arms are the same, one has no test questions, or their budgets differ."""
    for first, second in itertools.combinations(arms, 2):
        # Some file systems take capital letters for small ones.
        if first.name.casefold() == second.name.casefold() or first.settings == second.settings:
            raise BadInput(f"the arms {first.name!r} and {second.name!r} are the same; leave one of them out")
    for arm in arms:
        data = arm.settings["data"]
        if not (data["world"]["test_questions"] if data["world"] else data["test"]):
            raise BadInput(f"arm {arm.name!r}: no test questions; give data.test, or data.world.test_questions")
    budgets = {arm.name: [arm.settings["training"][key] for key in _EPISODES] for arm in arms}
    if len(set(map(math.prod, budgets.values()))) > 1:
        told = (f"{name!r} {' x '.join(map(str, of))} = {math.prod(of)} episodes" for name, of in budgets.items())
        raise BadInput(f"the arms' budgets, training.{' x '.join(_EPISODES)}, must be the same: {', '.join(told)}")


def grown_grid(before: Grid | None, arms: Sequence[Arm], seeds: Sequence[int], begun: Callable[[str], bool]) -> Grid:
    """The grid that was and what is asked for now; arms and seeds may come, settings may not change.

    `begun` says whether an arm has runs: one that has none may change, and is forgotten if nobody asks for it.
    Raises BadInput for an arm that has runs with other settings, or where the arms do not fit together.
    """
    asked = {arm.name: arm for arm in arms}
    merged = {}
    for old in before.arms if before else ():
        if old.name in asked and begun(old.name):
            _check_unchanged(old, asked[old.name])
        if old.name in asked or begun(old.name):
            merged[old.name] = asked.get(old.name, old)
    grid = Grid(
        arms=tuple((merged | asked).values()),
        seeds=tuple(sorted({*(before.seeds if before else ()), *seeds})),
    )
    check_arms(grid.arms)
    return grid


def write_grid(grid: Grid, path: Path) -> None:
    """Write a grid's file."""
    arms = {arm.name: {"overrides": arm.overrides, "settings": arm.settings} for arm in grid.arms}
    with atomic_write(path) as stream:
        json.dump({"seeds": grid.seeds, "arms": arms}, stream, indent=1)


def read_grid(path: Path) -> Grid | None:
    """The grid in a file, None where there is none; raises BadInput where it is not one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        arms = (Arm(name, tuple(arm["overrides"]), arm["settings"]) for name, arm in raw["arms"].items())
        return Grid(tuple(arms), tuple(raw["seeds"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path}: not the grid of a comparison; choose another --out") from None


def _check_unchanged(before: Arm, now: Arm) -> None:
    settings = without_old_settings(before.settings, f"the runs of arm {now.name!r}")
    if changed := changed_settings(settings, now.settings, MAY_CHANGE):
        raise BadInput(
            f"arm {now.name!r} has runs with other settings for {', '.join(changed)}; "
            "go on with those settings, or choose another --out"
        )


def _varied(text: str) -> list[str]:
    key, _, values = text.partition("=")
    try:
        # A list in YAML: commas within brackets and quotes are their value's own.
        parsed = load_yaml(f"[{values}]")
    except ValueError:
        parsed = None
    if not key or not parsed:
        raise BadInput(f"--vary {text!r}: expected KEY=V1,V2 with values in YAML, for example credit.alpha=0.3,0.5")
    return [f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for value in parsed]


def _split(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise BadInput(f"--arm {text!r}: {error}; expected key=value key=value") from None


def _readable(override: str) -> str:
    key, _, text = override.partition("=")
    try:
        value = load_yaml(text)
    except ValueError:
        value = text
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"{re.sub(r'^(credit|training)[.]', '', key)}={shown}"
