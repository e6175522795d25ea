"""Speed and memory of an update on a GPU: what each part of ours brings, beside TRL's stock GRPOTrainer.

    python benchmarks/gpu.py --out gpu.json                   all parts; those in the file are not measured again
    python benchmarks/gpu.py --out gpu.json --parts 3b-packed 3b-trl
    python benchmarks/gpu.py --out tiny.json --device cpu     a tiny shape in float32, to see that all of it runs

Weights are random at Qwen2.5's shapes: nothing is downloaded. Both sides have float32 weights, bfloat16 autocast, fused
AdamW, gradient checkpointing, no KL, and the same trajectories: a prompt, four turns of sampled tokens, and passages
between them; an advantage other than 0 on every trajectory. Each part is a process of its own: one step that is not
counted, then `--rounds` that are.

rows: padded rows, transformers' sdpa. packed: one sequence without padding, torch's flash attention over lengths.
compiled: packed, with each layer compiled. lora: packed, adapters of rank 32 on weights in bfloat16.

How to read it: tokens/s counts all tokens of the trajectories, median [least, greatest]; ratio: to TRL's at the same
shape; of rate: six products per parameter and token, as a share of what large bfloat16 products reach on this card,
measured in the same process; peak: GB that torch had allocated at most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from updates import Ours, Stock, Work
from workers import in_own_process

SHAPES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "intermediate_size": 128, "vocab_size": 40960, "tie_word_embeddings": True},
    "0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                 "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True},
    "3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
               "intermediate_size": 11008, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
               "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
"""Fields of Qwen2Config."""

PARTS = [f"{shape}-{kind}" for shape in ("0.5b", "3b") for kind in ("trl", "rows", "packed", "compiled")] + ["7b-lora"]
TINY_PARTS = [f"tiny-{kind}" for kind in ("trl", "rows", "packed", "lora")]


@dataclass(frozen=True, slots=True)
class Result:
    """What one part gave."""

    part: str
    card: str
    tokens_per_second: list[float]
    of_rate: float
    peak_gb: float


def random_policy(shape: str, device: Any) -> Any:
    """A policy of the shape, with random weights in float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape], max_position_embeddings=8192)).float()


class StockOnDevice(Stock):
    """TRL's trainer on the device of the part."""

    def load(self) -> Any:
        """See `Stock`."""
        return random_policy(self.work.model, self.device)


class OursOnDevice(Ours):
    """Our step on the device of the part."""

    kind = "packed"

    def load(self) -> Any:
        """See `Stock`."""
        import torch
        from peft import LoraConfig

        from tspo.training.learner import with_adapters

        policy = random_policy(self.work.model, self.device)
        if self.kind != "lora":
            return policy
        lora = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
        return with_adapters(policy, lora, torch.bfloat16)

    def options(self) -> dict[str, Any]:
        """See `Ours`."""
        return {"packed": self.kind != "rows", "compile": self.kind == "compiled"}


def measure(part: str, device: str, work: Work, rounds: int) -> Result:
    """One part, in this process."""
    import torch

    from tspo.training.machine_floor import product_rate

    _shape, _, kind = part.partition("-")
    engine_class = StockOnDevice if kind == "trl" else type("Part", (OursOnDevice,), {"kind": kind})
    rate = product_rate(getattr(torch, work.dtype), torch.device(device))
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    engine = engine_class(work, device)
    engine.round()
    seconds = []
    for _ in range(rounds):
        seconds.append(engine.round())
    tokens = engine.tokens()
    card, peak = "CPU", 0.0
    if device != "cpu":
        torch.cuda.synchronize()
        card, peak = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 1e9
    of_rate = 6 * engine.parameters() * tokens / statistics.median(seconds) / rate
    return Result(part, card, [tokens / one for one in seconds], of_rate, peak)


def table(results: list[Result]) -> Iterator[str]:
    """The results as lines of text."""
    yield f"{'part':<16} {'tokens/s':<28} {'ratio':>6} {'of rate':>8} {'peak GB':>8}"
    trl = {
        one.part.partition("-")[0]: statistics.median(one.tokens_per_second) for one in results if "-trl" in one.part
    }
    for one in results:
        median = statistics.median(one.tokens_per_second)
        theirs = trl.get(one.part.partition("-")[0])
        ratio = f"{median / theirs:.2f}" if theirs else "-"
        spread = f"{median:,.0f} [{min(one.tokens_per_second):,.0f}, {max(one.tokens_per_second):,.0f}]"
        yield f"{one.part:<16} {spread:<28} {ratio:>6} {one.of_rate:>8.1%} {one.peak_gb:>8.1f}"


def main() -> None:
    """Measure what is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *TINY_PARTS], metavar="PART")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1300)
    parser.add_argument("--micro-batch", type=int, default=8)
    args = parser.parse_args()
    # another library that takes the card's memory for itself
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    done = json.loads(args.out.read_text()) if args.out.exists() else []
    results = [Result(**one) for one in done]
    for part in args.parts or (PARTS if args.device == "cuda" else TINY_PARTS):
        if any(one.part == part for one in results):
            continue
        groups, group = (8, 4) if args.device == "cuda" else (2, 2)
        tokens = args.tokens if args.device == "cuda" else 300
        shape = part.partition("-")[0]
        # many processors have no bfloat16, and compute it a thousand times slower
        dtype = "bfloat16" if args.device == "cuda" else "float32"
        rows, threads = min(args.micro_batch, groups * group), os.cpu_count() or 1
        work = Work(shape, groups, group, tokens, tokens // 8, tokens // 20, rows, threads, True, dtype)
        started = time.perf_counter()
        try:
            results.append(in_own_process(measure, part, args.device, work, args.rounds))
        except SystemExit as error:  # out of memory, a package that is not there: the other parts are still to be had
            print(f"{part}: {str(error).strip().splitlines()[-1]}", flush=True)
            continue
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
        args.out.write_text(json.dumps([asdict(one) for one in results], indent=1))
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
