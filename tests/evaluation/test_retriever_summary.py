import json

import pytest

from tspo.evaluation.retriever_summary import format_retriever, retriever_to_json, summarize_retriever
from tspo.retrieval.quality import QuestionQuality

QUALITIES = [
    QuestionQuality("hotpotqa", {1: 0.5, 3: 1.0}, 1.0),
    QuestionQuality("hotpotqa", {1: 0.0, 3: 0.5}, 0.5),
    QuestionQuality("musique", {1: 0.0, 3: 0.0}, 0.0),
]


def test_means_by_source_and_of_all():
    summaries = summarize_retriever(QUALITIES)
    assert list(summaries) == ["hotpotqa", "musique", "all"]
    assert [summary.questions for summary in summaries.values()] == [2, 1, 3]
    assert list(summaries["all"].metrics) == ["recall@1", "recall@3", "MRR@3"]
    assert summaries["hotpotqa"].metrics["recall@3"].mean == 0.75
    assert summaries["all"].metrics["MRR@3"].mean == pytest.approx(0.5)
    for summary in summaries.values():
        assert all(0 <= metric.low <= metric.mean <= metric.high <= 1 for metric in summary.metrics.values())


def test_one_source_is_one_column():
    assert list(summarize_retriever(QUALITIES[:2])) == ["all"]


def test_the_table_has_a_line_a_metric():
    lines = format_retriever(summarize_retriever(QUALITIES)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["questions", "recall@1", "recall@3", "MRR@3"]
    assert lines[0].split() == ["hotpotqa", "musique", "all"]
    assert "0.000 [0.000, 0.000]" in lines[2]
    assert len(set(map(len, lines))) == 1


def test_json_says_the_same():
    read = json.loads(json.dumps(retriever_to_json(summarize_retriever(QUALITIES))))
    assert read["musique"]["questions"] == 1
    assert read["hotpotqa"]["metrics"]["recall@1"]["mean"] == 0.25
