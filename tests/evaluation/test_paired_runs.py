import json
import subprocess
import sys
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.cli import main
from tspo.evaluation.metrics import bootstrap_interval
from tspo.evaluation.paired_runs import compare_runs, holm, mcnemar_p, read_scored


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(b, c):
    """Two-sided: every split that is no likelier than the one seen, both coins alike."""
    chances = [comb(b + c, k) / 2 ** (b + c) for k in range(b + c + 1)]
    seen = chances[b]
    assert mcnemar_p(b, c) == pytest.approx(min(1.0, sum(p for p in chances if p <= seen * (1 + 1e-9))))


def test_mcnemar_of_thousands_of_questions():
    assert mcnemar_p(3000, 3000) == 1.0
    assert mcnemar_p(2900, 3100) == pytest.approx(0.0102, abs=3e-4)  # normal approximation with continuity: 0.01017
    assert 0 <= mcnemar_p(0, 5000) < 1e-300


def test_holm_corrects_for_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def write(path, answers, source=lambda question: "nq", question="Who?"):
    lines = [
        {
            "group_id": name,
            "question": question,
            "golden_answers": ["Ann"],
            "turns": [{"text": f"<answer>{answer}</answer>"}],
            "data_source": source(name),
        }
        for name, given_answers in answers.items()
        for answer in given_answers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def bits(count, seed, share):
    generator = np.random.default_rng(seed)
    return {f"q{n}": ["Ann" if generator.random() < share else "Bob"] for n in range(count)}


def test_differences_are_paired_by_question(tmp_path):
    first, second = bits(60, 1, 0.4), bits(60, 2, 0.6)
    pair = compare_runs(read_scored(write(tmp_path / "a", first)), read_scored(write(tmp_path / "b", second)))
    gaps = np.array([(second[q] == ["Ann"]) - float(first[q] == ["Ann"]) for q in sorted(first)])
    estimate = pair.overall.difference["exact_match"]
    assert estimate.mean == pytest.approx(gaps.mean())
    assert (estimate.low, estimate.high) == bootstrap_interval(gaps)
    assert pair.overall.mcnemar.only_first == (gaps < 0).sum()
    assert pair.overall.mcnemar.only_second == (gaps > 0).sum()
    assert pair.macro == {}


def test_the_macro_difference_counts_sources_alike(tmp_path):
    def source(name):
        return "nq" if int(name[1:]) < 8 else "hotpotqa"

    wrong = {f"q{n}": ["Bob"] for n in range(10)}
    right = wrong | {"q8": ["Ann"], "q9": ["Ann"]}
    pair = compare_runs(
        read_scored(write(tmp_path / "a", wrong, source)), read_scored(write(tmp_path / "b", right, source))
    )
    assert pair.macro["exact_match"].mean == 0.5
    assert pair.overall.difference["exact_match"].mean == 0.2
    assert pair.by_source["hotpotqa"].difference["exact_match"].mean == 1.0


def test_questions_of_one_run_only_are_left_out_and_counted(tmp_path, capsys):
    write(tmp_path / "a", {"q0": ["Ann"], "q1": ["Ann"]})
    write(tmp_path / "b", {"q1": ["Bob"], "q2": ["Ann"]})
    assert main(["compare-evaluations", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert "left out, for only one of the two answered them: 2" in text
    assert "-1.000 [-1.000, -1.000]" in text


def test_tries_of_one_question_have_no_mcnemar_test(tmp_path, capsys):
    for name in "ab":
        write(tmp_path / name, {"q0": ["Ann", "Bob"]})
    assert main(["compare-evaluations", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "no McNemar test" in capsys.readouterr().out


def test_three_runs_are_three_pairs_with_corrected_p_values(tmp_path, capsys):
    for name, share in (("a", 0.2), ("b", 0.5), ("c", 0.8)):
        write(tmp_path / name, bits(50, 3, share))
    places = [str(tmp_path / name) for name in "abc"]
    assert main(["compare-evaluations", *places]) == 0
    text = capsys.readouterr().out
    assert text.count(" minus ") == 3
    assert text.count("corrected for 3 pairs (Holm)") == 3
    assert main(["compare-evaluations", *places, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["second"] for one in listed] == [places[1], places[2], places[2]]
    assert listed[0]["overall"]["mcnemar"]["p"] < 0.05


def test_the_command_needs_no_torch(tmp_path):
    for name in "ab":
        write(tmp_path / name, {"q0": ["Ann"]})
    probe = (
        "import sys; from tspo.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    command = [sys.executable, "-c", probe, "compare-evaluations", str(tmp_path / "a"), str(tmp_path / "b")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.endswith("[]\n")


def test_bad_input_is_one_line(tmp_path, capsys):
    whole = write(tmp_path / "a", {"q0": ["Ann"]})
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole.read_bytes() * 2)
    cut.write_bytes(cut.read_bytes()[:-20])
    other = write(tmp_path / "other", {"q0": ["Ann"]}, question="Where?")
    foreign = write(tmp_path / "foreign", {"q9": ["Ann"]})
    empty = tmp_path / "empty"
    empty.write_text("")
    for arguments, words in (
        ([whole, cut], "cut.jsonl, line 2: not JSON"),
        ([whole, tmp_path / "none"], "none: cannot be read"),
        ([whole, other], "question 'q0' is another one"),
        ([whole, foreign], "no question in common"),
        ([whole, empty], "empty: holds no trajectories"),
        ([whole, whole], "name at least two evaluations, each once"),
        ([whole], "name at least two evaluations"),
    ):
        assert main(["compare-evaluations", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
