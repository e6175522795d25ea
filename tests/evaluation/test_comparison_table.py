from tspo.evaluation.comparison_table import format_report


def estimate(mean, low=None, high=None, **more):
    return {"mean": mean, "low": low, "high": high, **more}


def report(**changes):
    metrics = dict.fromkeys(("exact_match", "f1", "answer_in_feedback", "searches"), estimate(0.5, 0.25, 0.75))
    arm = {
        "seeds": [0, 1],
        "held_out": {"questions": 9, "metrics": metrics},
        "held_out_by_source": {},
        "learning": {
            "spent": {"episodes": 2400, "tokens": None},
            "area": estimate(0.25),
            "target": {
                "reached": 1,
                "seeds": 2,
                "median": {"steps": 7.5, "tokens": 1234567.0, "episodes": None},
            },
        },
        "signal": {},
        "curves": {},
    }
    whole = {"baseline": "a", "target_exact_match": 0.5, "arms": {"a": arm, "b|c": arm}, "differences": {}}
    return whole | changes


def gap(relative, interval):
    return {
        "seeds": 2,
        "questions": 9,
        "absolute": estimate(-0.125, -0.25, 0.0),
        "simultaneous": (-0.375, 0.125),
        "relative": relative,
        "relative_interval": interval,
    }


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "|" in line]


def test_columns_are_aligned_and_a_bar_in_a_name_does_not_end_its_cell():
    held_out, _ = format_report(report()).split("\n\n## Learning")
    table = [line for line in held_out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert table[-1].startswith("| b\\|c")


def test_numbers_that_are_missing_are_not_made_up():
    learning = next(row for row in rows(format_report(report())) if "1/2" in row)
    assert learning == ["a", "2,400", "-", "0.250", "1/2", "7.5", "1,234,567", "not reached"]


def test_relative_differences_that_are_not_defined():
    names = ("exact_match", "f1", "answer_in_feedback", "searches")
    gaps = [gap(None, None), gap(-0.5, None), gap(-0.5, (-0.75, 0.125)), gap(0.0, (0.0, 0.0))]
    difference = {
        "seeds": [0, 1],
        "held_out": dict(zip(names, gaps, strict=True)),
        "held_out_by_source": {},
        "area": None,
    }
    text = format_report(report(differences={"b|c": difference}))
    shown = [row[-2:] for row in rows(text) if row[0] == "b\\|c" and len(row) == 6 and row[2:4] == ["2", "9"]]
    assert [relative for _, relative in shown] == [
        "undefined",
        "-50.0% [undefined]",
        "-50.0% [-75.0%, +12.5%]",
        "+0.0% [+0.0%, +0.0%]",
    ]
    assert shown[0][0] == "-0.125 [-0.250, +0.000]"


def test_several_comparisons_have_intervals_that_hold_at_once():
    names = ("exact_match", "f1", "answer_in_feedback", "searches")
    difference = {
        "seeds": [0, 1],
        "held_out": dict.fromkeys(names, gap(-0.5, None)),
        "held_out_by_source": {},
        "area": estimate(0.25, seeds=2),
    }
    differences = {"b|c": difference, "d": None}
    _, part = format_report(report(differences=differences)).split("## Differences")
    table = rows(part)
    assert table[0][-2:] == ["relative", "all 2 at once"]
    assert [row[-1] for row in table[2:]] == ["[-0.375, +0.125]"] * 3 + ["[-0.38, +0.12]", "-", "-"]
    assert "at once" not in format_report(report(differences={"b|c": difference}))


def test_arms_with_nothing_in_common_are_told():
    assert "no seed or question in common" in format_report(report(differences={"b|c": None}))
