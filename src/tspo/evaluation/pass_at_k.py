"""pass@k: the chance that at least one of k tries is right, from n tries a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pass_at_k(tries: int, right: int, k: int) -> float:
    """The unbiased estimate 1 - C(n - c, k) / C(n, k) with n `tries`, c of them `right` (Chen et al., 2021, eq. 1).

    C(n - c, k) / C(n, k) is the chance that k tries, drawn without putting back, hold no right one; computed as a
    product. Raises ValueError unless 1 <= k <= tries and 0 <= right <= tries.
    """
    if not (1 <= k <= tries and 0 <= right <= tries):
        raise ValueError(f"pass@{k} of {tries} tries with {right} right")
    if tries - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(tries - right + 1, tries + 1)))


def pass_at_each_k(counts: Sequence[tuple[int, int]]) -> dict[int, NDArray[np.float64]]:
    """pass@k of each question (Q,), from its (tries, right), for k = 1, 2, 4, .. and the least number of tries.

    Empty where a question was tried once only: pass@1 is exact match then.
    """
    least = min((tries for tries, _ in counts), default=0)
    if least < 2:
        return {}
    ks = sorted({*(2**power for power in range(least.bit_length()) if 2**power <= least), least})
    return {k: np.array([pass_at_k(tries, right, k) for tries, right in counts]) for k in ks}
