import pytest

torch = pytest.importorskip("torch")

from tspo.training.policy_tokens import forward_passes  # noqa: E402


def test_rows_of_about_the_same_length_go_together():
    lengths = torch.tensor([500, 90, 2000, 480, 100, 520, 100])
    assert [rows.tolist() for rows in forward_passes(lengths, 1024)] == [[1, 4, 6], [3, 0], [5], [2]]
