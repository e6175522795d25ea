"""`tspo index`: a corpus as an index folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tspo.retrieval.encoder import TextEncoder

_DESCRIPTION = """\
Make a corpus searchable. CORPUS is JSON Lines, or Parquet (.parquet), of {"id", "contents"}; it is read in
bounded memory, however large it is. DIR appears when the index is whole, and replaces an index that stood there.
"""

_EXAMPLES = """\
examples:
  tspo index corpus.jsonl --out indexes/bm25
  tspo index wiki-18.jsonl --retriever dense --encoder intfloat/e5-base-v2 --mode ivf-pq --out indexes/wiki
  tspo index corpus.parquet --retriever hybrid --encoder models/minilm --mode int8 --out indexes/hybrid
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo index` to the command line."""
    parser = subparsers.add_parser(
        "index",
        help="make a corpus searchable",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="the passages, one a line or row")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the index")
    parser.add_argument(
        "--retriever",
        choices=("bm25", "dense", "hybrid"),
        default="bm25",
        help="by words, by meaning, or by both (default: bm25)",
    )
    dense = parser.add_argument_group("dense and hybrid")
    dense.add_argument("--encoder", metavar="MODEL", help="of a hub, or a folder (default: intfloat/e5-base-v2)")
    dense.add_argument(
        "--mode",
        metavar="MODE",
        help="exact, int8 (a quarter of the memory), hnsw (fast), ivf-pq (fast and small) (default: int8)",
    )
    dense.add_argument("--query-prefix", metavar="TEXT", help='stands before queries (default: "query: " for E5)')
    dense.add_argument("--passage-prefix", metavar="TEXT", help='before passages (default: "passage: " for E5)')
    dense.add_argument("--max-tokens", type=int, metavar="N", help="where texts are cut (default: 256)")
    dense.add_argument("--batch", type=int, metavar="N", help="passages encoded at a time (default: 64)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the index and say what it is."""
    from tspo.commands.setup import console
    from tspo.datasets.corpus import count_documents, read_corpus
    from tspo.progress import phase_bars
    from tspo.retrieval.build_index import build_bm25_index, build_dense_index, build_hybrid_index
    from tspo.retrieval.index_folder import read_manifest

    encoder = _encoder(args)
    corpus = read_corpus(args.corpus)
    screen = console()
    total = count_documents(args.corpus) if screen.is_terminal else None
    with phase_bars(screen, {"passages": total}) as report:
        if encoder is None:
            build_bm25_index(corpus, args.out, report)
        else:
            build = build_dense_index if args.retriever == "dense" else build_hybrid_index
            build(corpus, args.out, encoder, args.mode or "int8", report)
    manifest = read_manifest(args.out)
    size = sum(mark.bytes for mark in manifest.files.values()) / 1e6
    screen.print(
        f"{args.out}: {manifest.kind} index of {manifest.passages:,} passages, {size:,.1f} MB",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _encoder(args: argparse.Namespace) -> TextEncoder | None:
    """The encoder that the arguments ask for; None where only words are indexed."""
    from tspo.errors import BadInput

    if args.retriever == "bm25":
        for name in ("encoder", "mode", "query_prefix", "passage_prefix", "max_tokens", "batch"):
            if getattr(args, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')} is for --retriever dense or hybrid; leave it out")
        return None
    from tspo.retrieval.open_index import require_dense

    require_dense()
    from tspo.retrieval.encoder import DEFAULT_ENCODER, MAX_TOKENS, TextEncoder, encoder_settings
    from tspo.retrieval.vector_store import check_mode

    check_mode(args.mode or "int8")
    settings = encoder_settings(
        args.encoder or DEFAULT_ENCODER,
        args.query_prefix,
        args.passage_prefix,
        MAX_TOKENS if args.max_tokens is None else args.max_tokens,
    )
    return TextEncoder(settings, 64 if args.batch is None else args.batch)
