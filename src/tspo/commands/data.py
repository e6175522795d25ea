"""`tspo data`: data sets by name, listed and prepared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

_DESCRIPTION = """\
Data sets that go by name: the seven benchmarks of search agents, Search-R1's training questions, and its corpus
and index. `list` shows their splits, sizes, licences, and which are prepared; `prepare` fetches them from the hub at
a pinned revision, checks them, and writes question files. A broken download goes on where it stopped; a prepared
folder needs no network. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected.
"""

_EXAMPLES = """\
examples:
  tspo data list
  tspo data prepare bamboogle
  tspo data prepare nq:train hotpotqa:train
  tspo data prepare benchmarks              # the evaluation splits of all seven
  tspo train config.yaml data.train=[nq,hotpotqa] data.test=benchmarks
"""

_FOLDER = "where prepared data sets are; default: TSPO_DATA, else data/ in the cache"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo data` to the command line."""
    parser = subparsers.add_parser(
        "data",
        help="list and prepare data sets by name",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="splits, sizes, licences, and what is prepared")
    listing.add_argument("--folder", type=Path, help=_FOLDER)
    listing.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    listing.set_defaults(run=run_list)
    preparing = actions.add_parser("prepare", help="fetch, check, and write question files")
    preparing.add_argument(
        "names", nargs="+", metavar="NAME[:SPLIT]", help="a data set, one split of it, or benchmarks"
    )
    preparing.add_argument("--folder", type=Path, help=_FOLDER)
    preparing.set_defaults(run=run_prepare)


def run_list(args: argparse.Namespace) -> int:
    """Print the table."""
    from dataclasses import asdict

    from tspo.commands.setup import console
    from tspo.datasets.benchmarks import BENCHMARKS
    from tspo.datasets.listing import format_benchmarks
    from tspo.datasets.prepared import data_folder

    if args.json:
        print(json.dumps([asdict(benchmark) for benchmark in BENCHMARKS.values()], indent=1))
        return 0
    text = format_benchmarks(data_folder(args.folder))
    console().print(text, end="", markup=False, highlight=False, soft_wrap=True)
    return 0


def run_prepare(args: argparse.Namespace) -> int:
    """Fetch, check, write; print where each split is."""
    from tspo.commands.setup import require
    from tspo.datasets.benchmarks import SUITE
    from tspo.datasets.names import Split, check_split, find, question_splits
    from tspo.datasets.prepared import data_folder, prepare

    splits: list[Split] = []
    for name in args.names:
        if name == SUITE:
            splits += question_splits([name], "test")
            continue
        benchmark, split = find(name)
        wanted = benchmark.files if split is None else [check_split(benchmark, split)]
        splits += [Split(benchmark, each) for each in wanted]
    require("data", "huggingface_hub")
    folder = data_folder(args.folder)
    for one in splits:
        manifest = prepare(one, folder, lambda text: print(text, flush=True))
        rows = "" if manifest.rows is None else f"{manifest.rows - (manifest.left_out or 0):,} questions, "
        print(f"{folder / manifest.name / manifest.file}: {rows}SHA-256 {manifest.sha256[:12]}..", flush=True)
    return 0
