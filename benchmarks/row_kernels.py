"""Attention of decoding rows: compiled kernels, the plain operations they stand in for, and torch's own, in turns.

python benchmarks/row_kernels.py [--lengths 150,300,1000] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from tspo.rollout.kv_cache import BLOCK_ROWS, Piece, RowCache
from tspo.rollout.row_attention import plain_decode

KEY_HEADS, GROUP, SIZE, LAYERS, BLOCKS = 3, 3, 64, 30, 4
ROUNDS = 7

HEADER = f"""\
One decoding step's attention of SmolLM2-135M in bfloat16: {BLOCKS * BLOCK_ROWS} rows, {LAYERS} layers, {KEY_HEADS} key
heads of {SIZE} with {GROUP} query heads each. Every layer reads keys and values of its own, so that they come from
memory. Median, [least, greatest] of {ROUNDS} rounds in which the three take turns. GB/s: keys and values read.
ours/it: how many times its rate the kernels' is.
"""


def steps(length: int) -> tuple[dict[str, Callable[[], torch.Tensor]], float]:
    """The three ways of one step at a context of `length` tokens, and the gigabytes that each reads."""
    rows, heads = BLOCKS * BLOCK_ROWS, KEY_HEADS * GROUP
    cache, device = RowCache(rows, length + 1), torch.device("cpu")
    layers = []
    for start, count in ((0, length), (length, 1)):
        cache.place([Piece(row, start, count) for row in range(rows)], device)
        for layer in range(LAYERS):
            keys, values = torch.randn(2, 1, KEY_HEADS, rows * count, SIZE).bfloat16()
            layers.append(cache.update(keys, values, layer)[0])
        cache.passed()
    layers = layers[LAYERS:]
    if layers[0].layer.kernels is None:
        raise SystemExit("no C++ compiler with OpenMP: there is nothing to compare")
    query = (torch.randn(heads, rows, SIZE) * SIZE**-0.5).bfloat16()
    grouped = query.view(KEY_HEADS, GROUP, BLOCKS, BLOCK_ROWS, SIZE).permute(2, 3, 0, 1, 4)
    output = torch.empty(rows, heads, SIZE, dtype=torch.bfloat16)

    def compiled() -> torch.Tensor:
        for stored in layers:
            layer, places = stored.layer, stored.bringing.places
            tokens = stored.bringing.tokens_up_to(1)
            layer.kernels.decode(query, layer.table, places, tokens, KEY_HEADS, 1.0, output)
        return output

    def plain() -> torch.Tensor:
        for stored in layers:
            parts = stored.bringing.by_block
            attended = [plain_decode(grouped[part.block], *stored.layer.blocks[part.block], part) for part in parts]
        return torch.cat(attended).view(rows, heads, SIZE)

    def torchs() -> torch.Tensor:
        for stored in layers:
            blocks = stored.layer.blocks.items()
            attended = [
                scaled_dot_product_attention(grouped[block], keys.transpose(2, 3), values, scale=1.0)
                for block, (keys, values) in blocks
            ]
        return torch.cat(attended).view(rows, heads, SIZE)

    read = sum(tensor.nbytes for stored in layers for block in stored.layer.blocks.values() for tensor in block) / 1e9
    return {"kernels": compiled, "plain operations": plain, "scaled_dot_product_attention": torchs}, read


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=lambda text: [int(one) for one in text.split(",")], default=[150, 300, 1000])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(HEADER)
    print(f"{'tokens':>6}  {'':<30}{'ms a step':<28}{'GB/s':>6}{'ours/it':>9}")
    with torch.no_grad():
        for length in args.lengths:
            ways, read = steps(length)
            said = [way().float() for way in ways.values()]
            for other in said[1:]:
                torch.testing.assert_close(other, said[0], rtol=0, atol=0.02)
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    start = time.perf_counter()
                    way()
                    times[name].append((time.perf_counter() - start) * 1e3)
            ours = statistics.median(times["kernels"])
            for name, found in times.items():
                middle = statistics.median(found)
                spread = f"{middle:.1f} [{min(found):.1f}, {max(found):.1f}]"
                print(f"{length:>6}  {name:<30}{spread:<28}{read / middle * 1e3:>6.1f}{middle / ours:>9.2f}")


if __name__ == "__main__":
    main()
