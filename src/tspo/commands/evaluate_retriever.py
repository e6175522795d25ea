"""`tspo evaluate-retriever`: how well a retriever finds the evidence of questions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

_DESCRIPTION = """\
Search for each question as it stands, and print the mean recall@k (the share of its supporting_titles among the
first k passages) and MRR (1 / the rank of the first of them), each with a bootstrap 95 % interval. Questions that
name no supporting_titles are left out.
"""

_EXAMPLES = """\
examples:
  tspo evaluate-retriever indexes/wiki hotpotqa_test.jsonl musique_test.jsonl
  tspo evaluate-retriever indexes/hybrid test.jsonl --k 1,5,20 --reranker cross-encoder/ms-marco-MiniLM-L6-v2
  tspo evaluate-retriever http://localhost:8000 test.jsonl --json > quality.json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo evaluate-retriever` to the command line."""
    parser = subparsers.add_parser(
        "evaluate-retriever",
        help="measure how well a retriever finds evidence",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("place", metavar="PLACE", help="the folder of an index, or the address of a service")
    parser.add_argument(
        "questions", nargs="+", type=Path, metavar="QUESTIONS", help="files of questions, or names of tspo data"
    )
    parser.add_argument("--k", default="1,3,10", metavar="1,3,10", help="how many passages recall looks at")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--encoder", metavar="MODEL", help="where the index's encoder lies now, if it has moved")
    parser.add_argument("--reranker", metavar="MODEL", help="a cross-encoder that orders what the index finds")
    parser.add_argument("--checksums", action="store_true", help="first read the whole index and check it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search, count, print."""
    from tspo.commands.setup import console
    from tspo.datasets.prepared import question_files
    from tspo.datasets.questions import read_questions
    from tspo.evaluation.retriever_summary import format_retriever, retriever_to_json, summarize_retriever
    from tspo.retrieval.places import open_place
    from tspo.retrieval.quality import question_qualities

    ks = _ks(args.k)
    questions = read_questions(question_files(args.questions, "test"))
    retriever = open_place(args.place, encoder=args.encoder, reranker=args.reranker, checksums=args.checksums)
    summaries = summarize_retriever(question_qualities(retriever, questions, ks))
    if args.json:
        print(json.dumps(retriever_to_json(summaries), indent=2))
        return 0
    screen = console()
    screen.print(format_retriever(summaries), end="", markup=False, highlight=False, soft_wrap=True)
    if left_out := len(questions) - summaries["all"].questions:
        screen.print(f"left out, for they name no supporting_titles: {left_out}")
    return 0


def _ks(text: str) -> list[int]:
    from tspo.errors import BadInput

    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ks = []
    if not ks or ks[0] < 1:
        raise BadInput(f"--k {text!r}: expected numbers from 1, for example 1,3,10")
    return ks
