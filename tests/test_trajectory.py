import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.errors import BadInput
from tspo.trajectory import (
    StopReason,
    group_trajectories,
    read_records,
    trajectory_to_json,
    write_json_line,
    write_trajectories,
)

GOOD = {
    "group_id": "q",
    "question": "who?",
    "golden_answers": ["x"],
    "turns": [{"text": "<search> who </search>", "feedback": "f"}, {"text": "<answer> Jane </answer>"}],
}


def read(*lines):
    data = [(item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in lines]
    return list(read_records(data, "f.jsonl"))


def test_derives_what_is_missing():
    ((line, trajectory), (_, second)) = read(GOOD, GOOD)
    assert line == GOOD
    assert (trajectory.trajectory_id, second.trajectory_id) == ("q-0", "q-1")
    assert trajectory.answer == "Jane"
    assert trajectory.stop_reason is StopReason.ANSWER
    assert [turn.query for turn in trajectory.turns] == ["who", None]
    assert [turn.feedback for turn in trajectory.turns] == ["f", None]


def test_what_is_said_wins_over_what_could_be_derived():
    turns = [{"text": "<search>a</search><answer>b</answer>", "query": None}]
    said = {**GOOD, "turns": turns, "answer": None, "trajectory_id": "t", "stop_reason": "max_tokens"}
    ((_, trajectory),) = read(said)
    assert trajectory.answer is None
    assert trajectory.turns[0].query is None
    assert trajectory.trajectory_id == "t"
    assert trajectory.stop_reason is StopReason.MAX_TOKENS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer>b</answer>", StopReason.ANSWER),
        ("<search>b</search>", StopReason.MAX_TURNS),
        ("nothing", StopReason.NO_ACTION),
        ("<search> </search>", StopReason.NO_ACTION),
    ],
)
def test_derived_stop_reason(text, reason):
    ((_, trajectory),) = read({**GOOD, "turns": [{"text": text}]})
    assert trajectory.stop_reason is reason


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"group_id": 3}, "group_id"),
        ({"question": None}, "question"),
        ({"golden_answers": "x"}, "golden_answers"),
        ({"golden_answers": []}, "golden_answers"),
        ({"golden_answers": [1]}, "golden_answers"),
        ({"turns": []}, "turns"),
        ({"turns": "t"}, "turns"),
        ({"turns": [3]}, "turns[0]"),
        ({"turns": [{"text": "ok"}, {}]}, "turns[1]"),
        ({"turns": [{"text": 5}]}, "text"),
        ({"turns": [{"text": "", "query": 5}]}, "query"),
        ({"turns": [{"text": "", "feedback": ["x"]}]}, "feedback"),
        ({"answer": 1}, "answer"),
        ({"stop_reason": "bored"}, "stop_reason"),
        ({"trajectory_id": 1}, "trajectory_id"),
    ],
)
def test_an_error_names_file_line_and_field(change, field):
    with pytest.raises(BadInput) as error:
        read(GOOD, b"", {**GOOD, **change})
    assert "f.jsonl, line 3" in str(error.value)
    assert f"'{field}'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["group_id", "question", "golden_answers", "turns"])
def test_a_missing_field_is_named(name):
    with pytest.raises(BadInput, match=f"line 1: field '{name}'"):
        read({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"\xff",
        b"NaN",
        b'{"x": Infinity}',
        b'{"x": 1e999}',
        b"[" * 100_000,
        b'{"a": 1} {"b": 2}',
        b"1" * 9999,
    ],
)
def test_what_is_not_json_is_refused(raw):
    with pytest.raises(BadInput, match=r"f\.jsonl, line 2: not "):
        read(GOOD, raw)


@pytest.mark.parametrize("raw", [b"3", b"[]", b"null", b'"x"', b"true"])
def test_what_is_not_an_object_is_refused(raw):
    with pytest.raises(BadInput, match="line 1: expected a JSON object"):
        read(raw)


def test_blank_lines_a_byte_order_mark_and_crlf_are_no_trouble():
    data = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode()
    assert len(list(read_records(io.BytesIO(data), "f"))) == 2


def test_groups_in_order_of_appearance():
    trajectories = [trajectory for _, trajectory in read(*({**GOOD, "group_id": name} for name in "baba"))]
    groups = group_trajectories(trajectories)
    assert [group.group_id for group in groups] == ["b", "a"]
    assert [item.trajectory_id for item in groups[0].trajectories] == ["b-0", "b-1"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
any_text = st.text(st.characters())


@given(
    any_text,
    st.lists(any_text, min_size=1, max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {"text": any_text},
            optional={
                "query": st.none() | any_text,
                "feedback": st.none() | any_text,
                "token_ids": st.lists(st.integers(0, 9)),
                "odd": json_values,
            },
        ),
        min_size=1,
        max_size=3,
    ),
    st.dictionaries(any_text.map(lambda name: f"extra {name}"), json_values, max_size=2),
)
def test_reading_and_writing_lose_nothing(group_id, golden_answers, turns, extra):
    line = {"group_id": group_id, "question": "?", "golden_answers": golden_answers, "turns": turns, **extra}
    ((_, trajectory),) = read(line)
    stream = io.StringIO()
    write_trajectories([trajectory], stream)
    written = stream.getvalue().encode("utf-8")
    ((again, same),) = read_records(io.BytesIO(written), "f")
    assert same == trajectory
    assert again == trajectory_to_json(trajectory)
    assert {key: again[key] for key in extra} == extra
    for turn, turn_again in zip(turns, again["turns"], strict=True):
        assert turn.items() <= turn_again.items()


def test_half_a_surrogate_pair_is_escaped_and_other_text_is_readable():
    stream = io.StringIO()
    write_json_line({"a": "é"}, stream)
    write_json_line({"a": "\ud800"}, stream)
    assert stream.getvalue() == '{"a": "é"}\n{"a": "\\ud800"}\n'
