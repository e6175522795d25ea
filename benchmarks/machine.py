"""What benchmarks hold their rates against."""

from __future__ import annotations


class Machine:
    """What the machine can do at most."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def flops(self, dtype: str = "bfloat16") -> float:
        """Operations a second of large matrix products in that precision."""
        import torch

        from tspo.training.machine_floor import product_rate

        return product_rate(getattr(torch, dtype), torch.device("cpu"))
