import math
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

from tspo.training.update.packed_attention import bounds, packed_attention

LENGTHS = [5, 1, 7]


def states(heads: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads)
    return torch.randn(1, heads, sum(LENGTHS), 16, generator=generator).to(device, dtype)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    """(1, T, heads, size), a token and a head at a time; each two query heads share a key head."""
    output = torch.zeros(query.shape)
    for start, end in ((0, 5), (5, 6), (6, 13)):
        for token in range(start, end):
            first = max(start, token - window + 1)
            for head in range(query.shape[1]):
                seen = slice(first, token + 1)
                weight = (key[0, head // 2, seen] @ query[0, head, token] * scale).softmax(-1)
                output[0, head, token] = weight @ value[0, head // 2, seen]
    return output.transpose(1, 2)


def attend(*rows: torch.Tensor, **given: Any) -> torch.Tensor:
    own = bounds(torch.tensor(LENGTHS, device=rows[0].device))
    del own["position_ids"]
    return packed_attention(SimpleNamespace(), *rows, None, **own, **given)[0]


def test_bounds_are_transformers_own() -> None:
    found = bounds(torch.tensor(LENGTHS))
    assert found["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6]]
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 5, 6, 13]
    assert found["cu_seq_lens_q"].dtype == torch.int32
    assert (found["max_length_q"], found["max_length_k"]) == (7, 7)


@pytest.mark.parametrize("window", [None, 1, 3, 6])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_a_token_sees_its_trajectory_up_to_itself(window: int | None, scaling: float | None) -> None:
    rows = states(4), states(2), states(2) + 1.0
    expected = plain(*rows, 1 / math.sqrt(16) if scaling is None else scaling, window or 100)
    torch.testing.assert_close(attend(*rows, scaling=scaling, sliding_window=window), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 3])
def test_flash_attention_is_the_same(window: int | None) -> None:
    rows = [row.to("cuda", torch.bfloat16) for row in (states(4), states(2), states(2) + 1.0)]
    expected = plain(*(row.float().cpu() for row in rows), 1 / math.sqrt(16), window or 100)
    found = attend(*rows, sliding_window=window).float().cpu()
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("what", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}])
def test_what_it_cannot_do_is_refused(what: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="neither a cap nor sinks"):
        attend(states(4), states(2), states(2), **what)
