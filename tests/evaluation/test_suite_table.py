import pytest

from tspo.datasets.benchmarks import BENCHMARKS, SEVEN
from tspo.evaluation.metrics import summarize
from tspo.evaluation.published import PUBLISHED
from tspo.evaluation.suite_table import format_published, format_suite
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(question, source, right, hops=None):
    answer = "Ann" if right else "Bob"
    extra = {"data_source": source} | ({} if hops is None else {"hops": hops})
    turn = Turn(f"<answer>{answer}</answer>", token_ids=[1, 2, 3])
    return Trajectory(question, question, "Who?", ["Ann"], [turn], answer, StopReason.ANSWER, extra=extra)


SUITE = summarize(
    [trajectory(f"n{n}", "nq", n < 3, 1) for n in range(4)]
    + [trajectory(f"h{n}", "hotpotqa", n < 1, 2) for n in range(2)]
)


def rows_of(text):
    return {line.split("  ")[0]: line for line in text.splitlines()}


def test_a_row_a_set_the_macro_average_and_all():
    rows = rows_of(format_suite(SUITE))
    assert "0.750 [" in rows["nq"]
    assert "0.500 [" in rows["hotpotqa"]
    assert "0.625 [" in rows["macro average"]
    assert "0.667 [" in rows["all questions"]
    assert "3.0 [3.0, 3.0]" in rows["nq"]
    assert rows["1 hop"].split()[2] == "4"
    assert rows["2 hops"].split()[2] == "2"
    assert "6 trajectories ended by: answer 6" in rows


def test_pass_at_k_has_a_table_of_its_own():
    twice = summarize([trajectory("a", "nq", True), trajectory("a", "nq", False)])
    text = format_suite(twice)
    assert "pass@1" in text
    assert "pass@2" in text
    assert "1.000 [1.000, 1.000]" in rows_of(text)["all questions"]
    assert "pass@" not in format_suite(SUITE)


def test_names_from_files_reach_the_terminal_without_control_characters():
    text = format_suite(summarize([trajectory("a", "\x1b[31mred\nline", True)]))
    assert "\x1b" not in text
    assert "\ufffd[31mred\ufffdline" in text


def test_published_rows_are_marked_and_have_their_source():
    text = format_published(SUITE)
    (row,) = [line for line in text.splitlines() if line.startswith("Search-R1 (PPO)") and "Qwen2.5-7B  " in line]
    assert row.split()[3:] == ["0.480", "0.433", "0.431", "[1]"]
    assert rows_of(text)["this run"].split()[2:] == ["0.750", "0.500", "-"]
    assert "[1] quoted: Jin et al. 2025, arXiv 2503.09516v5, Table 2" in text
    assert "nq: 4 of 3,610 questions; hotpotqa: 2 of 7,405 questions" in text


def test_no_published_rows_for_other_data():
    assert format_published(summarize([trajectory("a", "mine", True)])) == ""


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: f"{one.method} {one.model}")
def test_a_published_row_is_of_the_seven_and_says_where_it_is_from(one):
    assert set(one.exact_match) <= set(SEVEN) <= set(BENCHMARKS)
    assert all(0 < value < 1 for value in one.exact_match.values())
    assert "arXiv" in one.source


@pytest.mark.parametrize(
    ("method", "model", "average"),
    [
        ("Search-R1 (PPO)", "Qwen2.5-7B", 0.431),
        ("Search-R1 (GRPO)", "Qwen2.5-7B", 0.350),
        ("Search-R1 (PPO)", "Qwen2.5-7B-Instruct", 0.385),
        ("Search-R1 (GRPO)", "Qwen2.5-7B-Instruct", 0.396),
        ("RAG", "Qwen2.5-7B", 0.304),
        ("Search-R1 (PPO)", "Qwen2.5-3B", 0.303),
        ("Search-R1 (GRPO)", "Qwen2.5-3B", 0.312),
        ("Search-R1 (PPO)", "Qwen2.5-3B-Instruct", 0.325),
        ("Search-R1 (GRPO)", "Qwen2.5-3B-Instruct", 0.336),
        ("RAG", "Qwen2.5-3B", 0.270),
        ("no retrieval", "Qwen2.5-3B", 0.134),
        ("ZeroSearch", "Qwen2.5-7B", 0.4093),
        ("ZeroSearch", "Qwen2.5-3B", 0.3447),
    ],
)
def test_the_averages_are_those_that_the_papers_print(method, model, average):
    """A mistyped number would not give the average of the paper's own last column."""
    (one,) = [one for one in PUBLISHED if (one.method, one.model) == (method, model)]
    assert one.average == pytest.approx(average, abs=6e-4)
