"""What benchmarks hold their rates against."""

from __future__ import annotations

import time


class Machine:
    """What the machine can do at most."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def flops(self) -> float:
        """Operations a second of square bfloat16 matrix products: the best of several."""
        import torch

        size = 2048
        left, right = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
        taken = []
        for _ in range(8):
            started = time.perf_counter()
            left @ right
            taken.append(time.perf_counter() - started)
        return 2 * size**3 / min(taken)
