import math

import pytest

from tspo.errors import BadInput
from tspo.rollout.sampler import FULL, GREEDY, SamplingOptions


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("min_p", math.nan),
    ],
)
def test_a_value_out_of_range_is_one_clear_line(field, value):
    with pytest.raises(BadInput, match=f"^{field}: {value} ") as error:
        SamplingOptions(**{field: value})
    assert "\n" not in str(error.value)


def test_what_leaves_tokens_out():
    assert not any(options.truncates for options in (FULL, GREEDY, SamplingOptions(0.7)))
    assert all(options.truncates for options in (SamplingOptions(top_k=1), SamplingOptions(top_p=0.9)))
    assert SamplingOptions(min_p=0.1).truncates
