"""How many hops a question takes, where the data say so."""

from __future__ import annotations

import re
from typing import Any

_BY_SOURCE = {"nq": 1, "triviaqa": 1, "popqa": 1, "hotpotqa": 2, "bamboogle": 2}
"""Sets whose questions all take as many hops: by how they were made (two paragraphs in HotpotQA, two facts in
Bamboogle), and single questions elsewhere."""

_BY_TYPE = {"comparison": 2, "compositional": 2, "inference": 2, "bridge_comparison": 4}
"""2WikiMultihopQA's question types, by the paragraphs that each needs (Ho et al., 2020, arXiv 2011.01060)."""

_IN_ID = re.compile(r"(?:^|_)([2-9])hop\d?__")
"""MuSiQue's own ids, `2hop__460946_294723`, `3hop1__..`."""


def known_hops(source: str, identifier: str, metadata: Any = None) -> int | None:
    """The hops of a question of the data set `source`, or None where nothing tells them."""
    if (named := _IN_ID.search(identifier)) is not None:
        return int(named[1])
    if isinstance(metadata, dict):
        steps = metadata.get("question_decomposition")
        if source == "musique" and isinstance(steps, list) and steps:
            return len(steps)
        kind = metadata.get("type")
        if source == "2wikimultihopqa" and isinstance(kind, str) and kind in _BY_TYPE:
            return _BY_TYPE[kind]
    return _BY_SOURCE.get(source)
