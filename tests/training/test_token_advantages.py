import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tspo.training.token_advantages import spread_over_tokens  # noqa: E402


def test_each_turn_has_its_value_feedback_and_padding_none():
    advantages = torch.tensor([[0.25, -2.0], [7.0, 9.0]], dtype=torch.float64)
    turn_number = torch.tensor([[1, 1, 0, 0, 2], [1, 1, 0, 0, 0]])
    spread = spread_over_tokens(advantages, turn_number)
    assert spread.dtype == torch.float32
    assert spread.tolist() == [[0.25, 0.25, 0, 0, -2.0], [7.0, 7.0, 0, 0, 0]]


@given(st.data())
def test_as_a_loop_would(data):
    rows, turns, tokens = (data.draw(st.integers(1, 5)) for _ in range(3))
    numbers = data.draw(st.lists(st.integers(0, turns), min_size=rows * tokens, max_size=rows * tokens))
    advantages, turn_number = torch.randn(rows, turns), torch.tensor(numbers).view(rows, tokens)
    spread = spread_over_tokens(advantages, turn_number)
    for i in range(rows):
        for t in range(tokens):
            k = int(turn_number[i, t])
            assert spread[i, t] == (advantages[i, k - 1] if k else 0.0)
