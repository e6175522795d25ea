import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tspo.bounded_yaml import load_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

plain = st.none() | st.booleans() | st.integers() | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(values)
def test_it_is_what_yaml_reads(value: object) -> None:
    text = yaml.safe_dump(value)
    assert load_yaml(text) == yaml.safe_load(text)


def test_anchors_that_mean_little_are_read() -> None:
    assert load_yaml("a: &one {x: 1}\nb: *one\nc: [*one, *one]") == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}] * 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "means more than 100000 values"),
        ("[" * 3_000, "nested too deep"),
        ("{a: " * 3_000, "nested too deep"),
        ("a: " + "x" * 1_000_001, "longer than 1000000 characters"),
        ("- x\n" * 100_000, "means more than 100000 values"),
        ("a: [1", "expected"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("2001-13-45", "month"),
    ],
)
def test_what_is_too_much_is_one_line_and_soon(text: str, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=said) as error:
        load_yaml(text)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 30
