"""`tspo world`: the embedded world as files, for any engine that reads Search-R1's formats."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Write a fictional knowledge base to FOLDER: corpus.jsonl (one passage a person, work, organisation, town or
region) and train.jsonl and test.jsonl (questions of one to three hops, with aliases among the answers). The
same numbers give the same files; no fact that a test question goes through is in a training question.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo world` to the command line."""
    parser = subparsers.add_parser(
        "world",
        help="write the embedded world as files",
        description=_DESCRIPTION,
        epilog="example:\n  tspo world worlds/large --passages 100000 --train 20000 --test 1000 --hops 2,3\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the files are written")
    parser.add_argument("--passages", type=int, default=2000, metavar="N", help="100 to 1,000,000 (default: 2000)")
    parser.add_argument("--train", type=int, default=600, metavar="N", help="training questions (default: 600)")
    parser.add_argument("--test", type=int, default=150, metavar="N", help="test questions (default: 150)")
    parser.add_argument("--hops", default="1,2,3", metavar="1,2,3", help="hops of the questions, as many of each")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another world (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the files and say where they are."""
    from tspo.datasets.world.files import WorldSettings, write_world
    from tspo.errors import BadInput

    try:
        hops = tuple(int(hop) for hop in args.hops.split(","))
    except ValueError:
        raise BadInput(f"--hops {args.hops!r}: expected numbers, for example 1,2,3") from None
    files = write_world(WorldSettings(args.passages, args.train, args.test, hops, args.seed), args.folder)
    for path in (files.corpus, files.train, files.test):
        print(path)
    return 0
