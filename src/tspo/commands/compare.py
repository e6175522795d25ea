"""`tspo compare`: methods and settings side by side, over seeds, with equal budgets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tspo.commands.config_argument import config_and_overrides
from tspo.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from tspo.config import RunConfig
    from tspo.training.grid import Arm
    from tspo.training.side_by_side import Failure

_DESCRIPTION = """\
Train every arm of a grid with every seed, each run a process of its own, and report how the arms differ:
held-out scores, learning curves, steps and tokens to a target, and differences paired by seed and question,
with 95 % intervals. All arms have the same budget of episodes. Everything is written to --out: the runs,
compare.md, compare.json, arms and curves as svg and png.

An arm is the configuration with some settings over it. --vary gives settings several values, and with more
than one --vary every combination is an arm; --arm adds one arm. Without either, the arms are TSPO and GRPO.
@FILE stands for the arguments in FILE, one a line.

Ctrl-C (or SIGTERM) saves and stops; the same command goes on from there, runs only what is not done, and
takes more arms and seeds. Every arm in --out is in the report; the first of all is what others are
compared with, or the one that --against names.
"""

_EXAMPLES = """\
examples:
  tspo compare --out runs/tspo-grpo --seeds 0-7 --jobs 2
  tspo compare my.yaml --out runs/alpha --vary credit.alpha=0.1,0.3,0.5
  tspo compare my.yaml --out runs/mix --arm "credit.algorithm=grpo" --arm "credit.alpha=0.3 training.beta=0"
  tspo compare configs/embedded-near-miss.yaml @configs/embedded-methods.arms --out runs/methods --jobs 2
  tspo compare --out runs/tspo-grpo --report-only --target-em 0.4 --against algorithm=tspo
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo compare` to the command line."""
    parser = subparsers.add_parser(
        "compare",
        help="train methods or settings side by side over seeds, and report the differences",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        fromfile_prefix_chars="@",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="[CONFIG.yaml] key=value", help="the settings that all arms have"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="where everything is written")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=V1,V2", help="an arm for each value")
    parser.add_argument(
        "--arm", action="append", default=[], metavar='"key=value .."', help="one more arm, with these settings"
    )
    parser.add_argument("--seeds", default="0-4", metavar="0-4|0,1,2", help="seeds of each arm (default: 0-4)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    parser.add_argument(
        "--target-em", type=float, default=0.5, metavar="SHARE", help="exact match to reach, 0 to 1 (default: 0.5)"
    )
    parser.add_argument(
        "--against",
        metavar="ARM",
        help="what others are compared with, named as in the report (default: the first)",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing; report what is done in --out")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run and report; 0 when all is done, 1 when a run failed, 128 + the signal's number when one stopped it."""
    from tspo.commands.setup import console, require, stoppable

    if not 0 < args.target_em <= 1:
        raise BadInput(f"--target-em {args.target_em:g}: expected a share over 0 and up to 1")
    if args.jobs < 1:
        raise BadInput(f"--jobs {args.jobs}: expected at least 1")
    require("train", "matplotlib")
    folder = args.out.absolute()
    screen = console()
    failures: list[Failure] = []
    if not args.report_only:
        arms, seeds = _grid(args)
        names = [arm.name for arm in arms]
        if args.against is not None and args.against not in names:
            raise BadInput(f"--against {args.against!r}: no arm of these: {', '.join(map(repr, names))}")

        def train() -> None:
            from tspo.training.compare import run_comparison

            failures.extend(run_comparison(folder, arms, seeds, args.jobs, screen))

        if code := stoppable(train, screen, "the same command goes on from here"):
            return code
    _report(folder, args, failures, screen)
    return 1 if failures else 0


def _grid(args: argparse.Namespace) -> tuple[list[Arm], tuple[int, ...]]:
    """The arms, their settings checked, and the seeds."""
    from tspo.commands.setup import load_run_config
    from tspo.training.grid import arm_overrides, check_arms, check_left_to_the_grid, make_arm, parse_seeds

    seeds = parse_seeds(args.seeds)
    path, overrides = config_and_overrides(args.overrides)
    check_left_to_the_grid(overrides)

    def load(arm: Sequence[str]) -> RunConfig:
        return load_run_config(path, [*overrides, *arm])

    arms = [make_arm(arm, load) for arm in arm_overrides(args.vary, args.arm)]
    check_arms(arms)
    return arms, seeds


def _report(folder: Path, args: argparse.Namespace, failures: Sequence[Failure], screen: Console) -> None:
    from tspo.training.compare import report_comparison

    def say(text: str) -> None:
        screen.print(text, markup=False, highlight=False, soft_wrap=True)

    try:
        say(report_comparison(folder, args.target_em, args.against))
        say(f"written to {folder}: compare.md, compare.json, arms and curves as svg and png")
    except BadInput as error:
        if not failures:
            raise
        say(f"no report: {error}")  # and what failed is what matters
    if failures:
        say("\n".join(["failed; the same command runs these again:", *(f"  {failure}" for failure in failures)]))
