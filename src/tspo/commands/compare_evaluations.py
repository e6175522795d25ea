"""`tspo compare-evaluations`: evaluations of the same questions, pair by pair."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Compare evaluations question by question, each with each before it: the difference of exact match, F1, substring
match, answers found and searches, with paired bootstrap 95 % intervals (questions are resampled, within each data
set for the macro average), and McNemar's exact test of exact match, corrected for the number of pairs (Holm).
"""

_EXAMPLES = """\
examples:
  tspo compare-evaluations runs/grpo/evaluation/model runs/tspo/evaluation/model
  tspo compare-evaluations before.jsonl after.jsonl --json > difference.json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo compare-evaluations` to the command line."""
    parser = subparsers.add_parser(
        "compare-evaluations",
        help="compare evaluations of the same questions",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "evaluations", nargs="+", type=Path, metavar="FOLDER", help="folders of tspo evaluate, or trajectory files"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, compare, print."""
    import json
    from dataclasses import asdict
    from itertools import combinations

    from tspo.commands.setup import console
    from tspo.errors import BadInput
    from tspo.evaluation.paired_runs import compare_runs, read_scored
    from tspo.evaluation.paired_table import format_pairs

    if len(set(args.evaluations)) < max(len(args.evaluations), 2):
        raise BadInput("name at least two evaluations, each once")
    runs = {str(place): read_scored(place) for place in args.evaluations}
    pairs = {(a, b): compare_runs(runs[a], runs[b]) for a, b in combinations(runs, 2)}
    if args.json:
        listed = [{"first": a, "second": b} | asdict(pair) for (a, b), pair in pairs.items()]
        print(json.dumps(listed, indent=1))
        return 0
    console().print(format_pairs(pairs), end="", markup=False, highlight=False, soft_wrap=True)
    return 0
