"""`tspo credit`: outcome, first occurrence, turn rewards and turn advantages for a trajectory file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tspo.errors import BadInput

if TYPE_CHECKING:
    from tspo.trajectory import Trajectory

_DESCRIPTION = """\
Assign credit to every turn of the trajectories in a JSON Lines file.

Each line is one attempt at a question: "group_id", "question", "golden_answers" and "turns", a turn being
the policy's "text" and the "feedback" that its search brought. Lines with the same group_id are one group;
advantages compare a trajectory with the others of its group. Each line is written back, in the order it
came, with four more fields:

  outcome           1.0 if the answer matches a golden answer, else 0.0
  first_occurrence  the turn (from 0) whose feedback first holds a golden answer, or null
  turn_rewards      what each turn earned
  turn_advantages   how much better that is than the group: what training reinforces
"""

_EXAMPLES = """\
examples:
  tspo credit trajectories.jsonl --out credited.jsonl
  tspo credit trajectories.jsonl --algorithm grpo | head -1
  cat run/*.jsonl | tspo credit - --alpha 0.3 --credit through_first_turn > credited.jsonl
"""

# Defaults and valid values are CreditConfig's, which would cost NumPy's import here; a test compares them.
_OPTIONS = (
    (
        "algorithm",
        "NAME",
        "how rewards become advantages: tspo, grpo, dr_grpo, rloo, reinforce_plus_plus, reinforce_plus_plus_baseline, "
        "mt_grpo, gigpo, igpo (default: tspo)",
    ),
    (
        "reward",
        "own|outcome|folr|search_r1|evidence|stepsearch|information_gain",
        "what turns earn; own is what the algorithm was published with (default: own)",
    ),
    ("alpha", "NUMBER", "what a wrong trajectory earns where the answer came up, 0 to 1 (default: 0.5)"),
    (
        "credit",
        "first_turn|through_first_turn",
        "which turns earn alpha: the one where the answer came up, or all up to it (default: through_first_turn)",
    ),
    (
        "match",
        "token|substring",
        "find answers in feedback as whole tokens, or anywhere within the text (default: token)",
    ),
    (
        "baseline",
        "absorbing|reached",
        "compare a turn with all of the group, ended trajectories counting by their last turn, "
        "or only with those that reached it (default: absorbing)",
    ),
    (
        "level",
        "turn|turn_if_all_wrong",
        "advantages per turn in every group, or only in groups with no correct answer (default: turn)",
    ),
    ("scale", "std|none", "divide advantages by the group's standard deviation, or not (default: std)"),
    ("gamma", "NUMBER", "discount of later turns' rewards: reinforce_plus_plus, gigpo, igpo (default: 1.0)"),
    ("turn_weight", "NUMBER", "weight of a turn's own advantage: mt_grpo, gigpo (default: 1.0)"),
    ("anchor_similarity", "NUMBER", "feedback so much alike is one state, 0 to 1: gigpo (default: 1.0)"),
    (
        "order",
        "normalize_first|accumulate_first",
        "normalise rewards and then sum them, or the other way round: igpo (default: normalize_first)",
    ),
    (
        "unsearched",
        "outcome|combined",
        "what the only turn of a trajectory is compared by: mt_grpo (default: outcome)",
    ),
    ("format_score", "NUMBER", "what keeping the format is worth, 0 to 1: search_r1 (default: 0.2)"),
    ("broken_format_score", "NUMBER", "what a wrong answer earns in a broken format: search_r1 (default: 0.0)"),
    ("retrieval_score", "NUMBER", "what a passage with an answer adds: search_r1 (default: 0.0)"),
    ("process_scale", "NUMBER", "factor of what searches earn: stepsearch (default: 1.0)"),
    (
        "ignore",
        "ANSWERS",
        "golden answers, separated by commas, that are no evidence in a passage (default: yes,no)",
    ),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo credit` to the command line."""
    parser = subparsers.add_parser(
        "credit",
        help="assign rewards and advantages to every turn of a trajectory file",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", help="trajectory file (JSON Lines); - is standard input")
    parser.add_argument("--out", metavar="OUT", default="-", help="where to write; - is standard output (default)")
    convert: dict[str, Callable[[str], object]] = {"NUMBER": float, "ANSWERS": _comma_separated}
    for name, metavar, text in _OPTIONS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=metavar,
            help=text,
            type=convert.get(metavar, str),
            default=argparse.SUPPRESS,
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read everything, assign credit, and write all lines or none."""
    from tspo.credit import CreditConfig, assign_credit

    config = CreditConfig(**{name: getattr(args, name) for name, _, _ in _OPTIONS if name in args})
    config.check_no_critic()
    lines, trajectories = _read(args.input)
    credits_ = assign_credit(trajectories, config)
    for line, credit in zip(lines, credits_, strict=True):
        line["outcome"] = credit.outcome
        line["first_occurrence"] = credit.first_occurrence
        line["turn_rewards"] = credit.turn_rewards
        line["turn_advantages"] = credit.turn_advantages
    _write(lines, args.out)
    return 0


def _read(path: str) -> tuple[list[dict[str, Any]], list[Trajectory]]:
    from tspo.trajectory import read_records

    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            records = list(read_records(sys.stdin.buffer, name))
        else:
            with open(path, "rb") as stream:
                records = list(read_records(stream, name))
    except OSError as error:
        raise BadInput(
            f"{name}: cannot read ({error.strerror}); name a trajectory file, or - for standard input"
        ) from None
    if not records:
        raise BadInput(f"{name}: holds no trajectories; expected JSON Lines, one trajectory a line")
    return [line for line, _ in records], [trajectory for _, trajectory in records]


def _write(lines: list[dict[str, Any]], path: str) -> None:
    from tspo.files import atomic_write
    from tspo.trajectory import write_json_line

    if path != "-":
        with atomic_write(path) as stream:
            for line in lines:
                write_json_line(line, stream)
        return
    try:
        # A stream of its own: UTF-8 in every locale, and no second complaint at exit if the disk is full.
        with open(sys.stdout.fileno(), "w", encoding="utf-8", newline="\n", closefd=False) as stream:
            for line in lines:
                write_json_line(line, stream)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadInput(f"standard output: cannot write ({error.strerror}); use --out with another place") from None


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(answer.strip() for answer in text.split(","))
