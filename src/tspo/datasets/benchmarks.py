"""The data sets that go by name: where each lies on the hub, its splits, sizes, licences and checksums.

Row counts of the FlashRAG sets are those of FlashRAG's README. Exact sizes and checksums are at the pinned revision,
as far as they are published; a checksum that is not known here is the hub's own (`hub.py`). Sizes in MB are the hub's
file pages'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["questions", "files"]


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository; None where a number is not known."""

    path: str
    megabytes: float
    rows: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A data set by its name: `files` by split (for questions) or by name."""

    name: str
    repository: str
    revision: str
    files: Mapping[str, HubFile]
    licence: str
    """What the repository that is downloaded from declares."""
    original_licence: str
    """What the data set's authors declare."""
    hops: str
    """Where the number of hops of a question comes from (`hops.py`)."""
    evaluation: str | None = None
    """The split that Search-R1 and those after it evaluate on."""
    kind: Kind = "questions"


_FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"
_FLASHRAG_REVISION = "bcafb8dd07d453be3cbeeeb3f78be1841bddf92c"
_FLASHRAG_LICENCE = "CC BY-SA 4.0"
_NOT_DECLARED = "not declared"
_UNKNOWN = "unknown"


def _flashrag(
    name: str, evaluation: str, original_licence: str, hops: str, files: Mapping[str, tuple[float, int, str | None]]
) -> Benchmark:
    return Benchmark(
        name=name,
        repository=_FLASHRAG,
        revision=_FLASHRAG_REVISION,
        files={split: HubFile(f"{name}/{split}.jsonl", *numbers) for split, numbers in files.items()},
        licence=_FLASHRAG_LICENCE,
        original_licence=original_licence,
        hops=hops,
        evaluation=evaluation,
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    entry.name: entry
    for entry in (
        _flashrag(
            "nq",
            "test",
            "CC BY-SA 3.0",
            "1",
            {
                "train": (9.96, 79_168, "572685d3f384d9c37479b1fb14232984c85ff13b58923c0c9442232bd5d5647b"),
                "dev": (1.07, 8_757, None),
                "test": (0.488, 3_610, None),
            },
        ),
        _flashrag(
            "triviaqa",
            "test",
            _UNKNOWN,
            "1",
            {"train": (33.0, 78_785, None), "dev": (3.71, 8_837, None), "test": (4.8, 11_313, None)},
        ),
        _flashrag("popqa", "test", _NOT_DECLARED, "1", {"test": (8.53, 14_267, None)}),
        _flashrag(
            "hotpotqa",
            "dev",
            "CC BY-SA 4.0",
            "2",
            {
                "train": (569.5, 90_447, "a81274abafa899ec0ee073102edbe6bb694a8a1174201b4e43e2bc6c98964d1a"),
                "dev": (48.2, 7_405, "434ec155867019396312f3d466ce3406c71fe8a2917f49f63bb646ec5ad2ff52"),
            },
        ),
        _flashrag(
            "2wikimultihopqa",
            "dev",
            "Apache-2.0",
            "2, 4 for bridge_comparison (metadata.type)",
            {
                "train": (59.6, 15_000, None),
                "dev": (54.7, 12_576, "b4d74d73d1cb3c0632c665a85e1e5060e3411968b807721618cfd2464fc905e3"),
            },
        ),
        _flashrag(
            "musique",
            "dev",
            "CC BY 4.0",
            "2 to 4 (metadata.question_decomposition)",
            {"train": (40.1, 19_938, None), "dev": (5.62, 2_417, None)},
        ),
        _flashrag(
            "bamboogle",
            "test",
            _UNKNOWN,
            "2",
            {"test": (0.017, 125, "c9703dae6bb1ceb9e2df77be45da28cb12aa040d2f471507890a461296968f3f")},
        ),
        Benchmark(
            name="search-r1",
            repository="PeterJinGo/nq_hotpotqa_train",
            revision="b7d80abfee334a7a91cb377544f09180d58b34f6",
            files={
                "train": HubFile(
                    "train.parquet",
                    355.7,
                    169_615,
                    "c3cc21e862a8469105de666101578cbff23cdc77e91a803cef102622c89cc4f6",
                ),
                "test": HubFile(
                    "test.parquet", 70.4, 51_713, "30aa887b6d47e06e8c0f6f5307c88fe4e13461ac25a20ec0a5433ad7a4fe25dc"
                ),
            },
            licence=_NOT_DECLARED,
            original_licence="as the sets in it",
            hops="1 for nq, triviaqa, popqa; 2 for hotpotqa, bamboogle",
            evaluation="test",
        ),
        Benchmark(
            name="wiki-18-corpus",
            repository="PeterJinGo/wiki-18-corpus",
            revision="69c1c00ffe7c5554c68d8548355cb22e46aabc51",
            files={
                "wiki-18.jsonl.gz": HubFile(
                    "wiki-18.jsonl.gz",
                    5_123.3,
                    21_015_324,
                    "7abd929223399cd63c52b499f289bf4f9039be1e9f8c43e1cb3938305b2317db",
                )
            },
            licence=_NOT_DECLARED,
            original_licence="CC BY-SA (Wikipedia)",
            hops="",
            kind="files",
        ),
        Benchmark(
            name="wiki-18-e5-index",
            repository="PeterJinGo/wiki-18-e5-index",
            revision="a4d31160a035f30764604f4827cd8f1d0315eb86",
            files={
                "part_aa": HubFile(
                    "part_aa", 42_949.7, None, "a8a6a246951da4bbc8771a223283ef61963882a32864d9044ec00abb90fc3023"
                ),
                "part_ab": HubFile(
                    "part_ab", 21_609.4, None, "b6d9bc943626fe7cb44de4c849e9379e7f272ab216c0552acbcf2390cc033c11"
                ),
            },
            licence=_NOT_DECLARED,
            original_licence=_NOT_DECLARED,
            hops="",
            kind="files",
        ),
    )
}

SUITE = "benchmarks"
"""The name of the seven evaluation splits together."""

SEVEN = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
"""The data sets of SUITE, in the order in which tables have them."""
