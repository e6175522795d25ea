import json
from dataclasses import replace

from tspo.evaluation.metrics import METRICS, Estimate, SourceSummary, Summary
from tspo.evaluation.table import format_comparison, summary_to_json


def source(mean, questions=10, stop_reasons=None):
    estimate = Estimate(mean, mean - 0.1, mean + 0.1)
    return SourceSummary(questions, 5 * questions, dict.fromkeys(METRICS, estimate), stop_reasons or {"answer": 50})


SUMMARY = Summary(
    overall=source(0.25, 20, {"answer": 95, "max_turns": 5}),
    by_source={"hotpotqa": source(0.5), "nq": source(0.125)},
)


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_columns_are_aligned():
    lines = format_comparison({"a": SUMMARY}).split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_comparison_has_a_column_a_run_and_a_table_a_source():
    text = format_comparison({"before": SUMMARY, "after": SUMMARY})
    overall, hotpotqa, nq = text.split("\n\n")
    assert cells(overall.splitlines()[0]) == ["before", "after"]
    assert [table.splitlines()[0] for table in (hotpotqa, nq)] == ["hotpotqa", "nq"]
    assert "0.500 [0.400, 0.600]  0.500 [0.400, 0.600]" in hotpotqa


def test_a_comparison_of_one_source_is_one_table():
    summary = Summary(overall=source(0.5), by_source={"nq": source(0.5)})
    assert "\n\n" not in format_comparison({"before": summary, "after": summary})


def test_a_source_that_one_run_lacks_has_no_column_there():
    other = Summary(overall=source(0.5), by_source={"nq": source(0.5)})
    _, hotpotqa, nq = format_comparison({"before": SUMMARY, "after": other}).split("\n\n")
    assert cells(hotpotqa.splitlines()[1]) == ["before"]
    assert cells(nq.splitlines()[1]) == ["before", "after"]


def test_the_rows_of_a_table():
    overall = format_comparison({"a": SUMMARY}).split("\n\n")[0]
    rows = {cells(line)[0]: cells(line)[1:] for line in overall.splitlines()[1:]}
    assert rows["questions"] == ["20"]
    assert rows["exact match"] == ["0.250 [0.150, 0.350]"]
    assert rows["turns"] == ["0.25 [0.15, 0.35]"]
    assert rows["stopped: max_turns"] == ["5"]
    assert len(rows) == 2 + len(METRICS) - 1 + 2  # F1 by HotpotQA's script is the same


def test_f1_by_hotpotqa_has_a_row_where_it_is_another_number():
    metrics = SUMMARY.overall.metrics | {"hotpot_f1": Estimate(0.1, 0.0, 0.2)}
    text = format_comparison({"a": replace(SUMMARY, overall=replace(SUMMARY.overall, metrics=metrics))})
    assert ["F1 of HotpotQA", "0.100 [0.000, 0.200]"] in [cells(line) for line in text.splitlines()]


def test_a_metric_that_one_run_lacks_is_a_dash_there_and_no_row_where_all_lack_it():
    lacking = Summary(replace(source(0.5), metrics={"f1": Estimate(0.5, 0.4, 0.6)}), {})
    text = format_comparison({"a": SUMMARY, "b": lacking})
    row = next(line for line in text.splitlines() if line.startswith("tokens"))
    assert cells(row)[2] == "-"
    assert "tokens" not in format_comparison({"b": lacking})


def test_json_holds_every_number():
    loaded = json.loads(json.dumps(summary_to_json(SUMMARY)))
    assert loaded["all"]["questions"] == 20
    assert loaded["all"]["stop_reasons"] == {"answer": 95, "max_turns": 5}
    assert loaded["by_source"]["hotpotqa"]["metrics"]["f1"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert list(loaded["by_source"]) == ["hotpotqa", "nq"]
