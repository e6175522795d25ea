"""`tspo report`: a run as one page that opens in any browser."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Write RUN_FOLDER/report.html: what the run reached on held-out questions, its curves, and trajectories with
what each turn earned under TSPO and under GRPO. One file that needs no network and no scripts.

`tspo train` writes it when it ends; this makes it anew, also of a run that was stopped or is still going.
"""

_EXAMPLES = """\
example:
  tspo report runs/smollm2-wiki-qa
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo report` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="make the page about a training run anew",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="the output_dir of a run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print where it is."""
    from tspo.evaluation.report import write_report

    print(write_report(args.folder))
    return 0
