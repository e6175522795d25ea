import pytest

torch = pytest.importorskip("torch")

from tspo.training.policy_tokens import forward_passes  # noqa: E402


def test_rows_of_about_the_same_length_go_together():
    lengths = torch.tensor([500, 90, 2000, 480, 100, 520, 100])
    assert [rows.tolist() for rows in forward_passes(lengths, 10)] == [[1, 4, 6], [3, 0], [5], [2]]


def test_no_pass_has_more_rows_than_asked_for():
    assert [rows.tolist() for rows in forward_passes(torch.full((5,), 10), 2)] == [[0, 1], [2, 3], [4]]
