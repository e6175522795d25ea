"""What a run of a recipe takes on GPUs: tokens of a step, memory, hours. Computed, not measured: no GPU is needed.

python benchmarks/sizing.py [CONFIG.yaml ..] [--gpus N] [--gpu h100] [--turns N] [--turn-tokens N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from tspo.config import RunConfig, load_config

GB = 1e9
RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("qwen2.5-*.yaml"))

HEADER = """\
Millions of tokens of one optimizer step: 'usual' with {turns} turns of {turn_tokens} tokens and feedback of full
length, 'limit' with every episode as long as it may be. Memory is of one GPU, in GB of 1e9 bytes: FSDP spreads states
over all GPUs, adapters are trained on each GPU whole. Seconds of a step and hours of the run are an estimate from the
GPU's data sheet, without searches, at the shares of it that are in this script.
"""

COLUMNS = ("GPUs", "usual", "limit", "states", "passes", "sampler", "its cache", "GB", "rollout s", "update s", "hours")

# config.json of the models on the hub; base and instruct have the same.
SHAPES = {
    "Qwen/Qwen2.5-3B": Qwen2Config(
        hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, intermediate_size=11008,
        vocab_size=151936, tie_word_embeddings=True,
    ),
    "Qwen/Qwen2.5-7B": Qwen2Config(
        hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
        vocab_size=152064, tie_word_embeddings=False,
    ),
}  # fmt: skip

PROMPT_TOKENS = 150
"""Search-R1's prompt and a question, in Qwen2.5's tokenizer."""

TRAINED_BYTES = 16
"""Of a parameter that learns: weight, gradient and AdamW's two moments, in float32."""

BFLOAT16 = 2


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU's data sheet, and what share of it a run gets."""

    memory: float
    """Bytes."""
    operations: float
    """Dense bfloat16 operations a second."""
    bandwidth: float
    """Bytes a second of its memory."""
    trains_at: float = 0.35
    """Share of `operations` in forward and backward passes."""
    decodes_at: float = 0.6
    """Share of `bandwidth` in decoding."""


GPUS = {
    "h100": Gpu(80e9, 989e12, 3.35e12),
    "a100": Gpu(80e9, 312e12, 2.04e12),
    "4090": Gpu(24e9, 165e12, 1.01e12),
}
"""NVIDIA's data sheets: H100 SXM, A100 SXM of 80 GB, GeForce RTX 4090."""


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens of one step, and of its longest episode."""

    trajectories: int
    prompt: int
    sampled: int
    """Tokens of one episode that the policy samples."""
    feedback: int
    """Tokens of one episode that it reads."""

    @property
    def episode(self) -> int:
        """Tokens of one trajectory."""
        return self.prompt + self.sampled + self.feedback

    @property
    def step(self) -> int:
        """Tokens of all trajectories."""
        return self.trajectories * self.episode


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one GPU."""

    states: float
    """Weights, gradients, moments, the reference policy, and what FSDP gathers for a layer."""
    passes: float
    """Activations of a micro-batch of full length, with one layer computed again at a time."""
    sampler_weights: float
    """The whole policy as the sampler has it."""
    sampler_cache: float
    """Keys and values of all episodes side by side at the usual length."""

    @property
    def total(self) -> float:
        """With the sampler in place while the policy is trained."""
        return self.states + self.passes + self.sampler_weights + self.sampler_cache


def shape_of(model: str) -> Qwen2Config:
    """The model's shape; base and instruct models have the same."""
    return SHAPES[model.removesuffix("-Instruct")]


def num_parameters(shape: Qwen2Config) -> int:
    """All parameters; tied ones count once."""
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(shape).num_parameters())


def adapter_parameters(shape: Qwen2Config, rank: int) -> int:
    """Parameters of LoRA on every linear layer but the output: rank x (inputs + outputs) each."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    return sum(rank * (layer.in_features + layer.out_features) for layer in linear)


def cache_bytes(shape: Qwen2Config) -> int:
    """Bytes of keys and values of one token."""
    size = shape.hidden_size // shape.num_attention_heads
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * size * BFLOAT16


def usual_load(config: RunConfig, turns: int, turn_tokens: int) -> Load:
    """Episodes of `turns` turns of `turn_tokens`, each turn but the last with feedback of full length."""
    rollout = config.rollout
    turns = min(turns, rollout.max_turns)
    sampled = turns * min(turn_tokens, rollout.max_turn_tokens)
    feedback = min((turns - 1) * rollout.max_feedback_tokens, rollout.max_total_tokens - PROMPT_TOKENS - sampled)
    return Load(config.training.groups_per_step * config.training.group_size, PROMPT_TOKENS, sampled, feedback)


def limit_load(config: RunConfig) -> Load:
    """Every episode as long as the limits allow."""
    rollout = config.rollout
    return usual_load(config, rollout.max_turns, rollout.max_turn_tokens)


def memory_of(config: RunConfig, usual: Load, gpus: int) -> Memory:
    """What one of `gpus` GPUs holds; with adapters each holds all."""
    shape, training = shape_of(config.model), config.training
    parameters = num_parameters(shape)
    layer = (parameters - shape.vocab_size * shape.hidden_size) / shape.num_hidden_layers
    if training.lora is None:
        reference = 4 * parameters if training.beta else 0
        states = (TRAINED_BYTES * parameters + reference) / gpus + 2 * BFLOAT16 * layer
    else:
        frozen = {"float32": 4, "bfloat16": 2}[training.lora.base_dtype]
        states = frozen * parameters + TRAINED_BYTES * adapter_parameters(shape, training.lora.r)
    tokens = training.micro_batch * config.rollout.max_total_tokens
    kept = shape.num_hidden_layers * shape.hidden_size  # the input of each layer
    again = 8 * shape.hidden_size + 3 * shape.intermediate_size  # inside one layer
    rows = min(config.rollout.concurrency, -(-usual.trajectories // gpus))
    return Memory(
        states=states,
        passes=tokens * (kept + again) * BFLOAT16,
        sampler_weights=BFLOAT16 * parameters,
        sampler_cache=rows * usual.episode * cache_bytes(shape),
    )


def step_seconds(config: RunConfig, load: Load, gpus: int, gpu: Gpu) -> tuple[float, float]:
    """(seconds of the rollout, seconds of the update), searches not counted.

    Decoding reads all weights and all caches at each token; reading prompt and feedback, and training, are products:
    2 operations a parameter and token forward, 4 backward, 2 more for computing activations again, 2 for the reference.
    Attention adds 4 operations a layer, hidden number and pair of tokens forward, and so on.
    """
    shape = shape_of(config.model)
    parameters = num_parameters(shape)
    pairs = load.episode / 2  # of tokens that attend and are attended to, a token
    forward = 2 * parameters + 4 * shape.num_hidden_layers * shape.hidden_size * pairs
    here = -(-load.trajectories // gpus)
    rows = min(config.rollout.concurrency, here)
    decoding = BFLOAT16 * parameters + rows * load.episode / 2 * cache_bytes(shape)
    passes = -(-here // rows) * load.sampled
    rollout = passes * decoding / (gpu.bandwidth * gpu.decodes_at)
    rollout += here * (load.prompt + load.feedback) * forward / (gpu.operations * gpu.trains_at)
    backward = 2 if config.training.lora is None else 1  # adapters: no gradient of the frozen weights
    update = forward * (1 + 1 + backward + (config.training.beta > 0))
    return rollout, here * load.episode * update / (gpu.operations * gpu.trains_at)


def print_rows(first: str, rows: Iterable[tuple[str, RunConfig, int, str, Load]]) -> None:
    """A table: a row a (name, recipe, GPUs, kind of GPU, load)."""
    print(f"{first:<30}" + "".join(f"{name:>10}" for name in COLUMNS))
    for name, config, gpus, gpu, usual in rows:
        memory = memory_of(config, usual, gpus)
        rollout, update = step_seconds(config, usual, gpus, GPUS[gpu])
        hours = config.training.steps * (rollout + update) / 3600
        parts = (memory.states, memory.passes, memory.sampler_weights, memory.sampler_cache, memory.total)
        cells = [f"{gpus} {gpu}", f"{usual.step / 1e6:.2f}", f"{limit_load(config).step / 1e6:.2f}"]
        cells += [f"{part / GB:.1f}" for part in parts] + [f"{value:.0f}" for value in (rollout, update, hours)]
        print(f"{name:<30}" + "".join(f"{cell:>10}" for cell in cells))
    print()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, default=RECIPES, help="default: configs/qwen2.5-*.yaml")
    parser.add_argument("--gpus", type=int, help="default: 8, and 1 for adapters")
    parser.add_argument("--gpu", choices=GPUS, help="default: h100, and 4090 where the recipe is for 24 GB")
    parser.add_argument("--turns", type=int, default=3, help="of a usual episode (default: 3)")
    parser.add_argument("--turn-tokens", type=int, default=120, help="sampled in a usual turn (default: 120)")
    args = parser.parse_args()
    print(HEADER.format(turns=args.turns, turn_tokens=args.turn_tokens))
    recipes = {path.stem: load_config(path) for path in args.configs}

    def place(name: str) -> tuple[int, str]:
        gpus = args.gpus or (8 if recipes[name].training.lora is None else 1)
        return gpus, args.gpu or ("4090" if "24gb" in name else "h100")

    def load(config: RunConfig) -> Load:
        return usual_load(config, args.turns, args.turn_tokens)

    print_rows("recipe", ((name, config, *place(name), load(config)) for name, config in recipes.items()))
    name, config = list(recipes.items())[-1]
    gpus, gpu = place(name)
    turns = range(1, config.rollout.max_turns + 1)
    print_rows(
        f"{name} by turns", ((str(n), config, gpus, gpu, usual_load(config, n, args.turn_tokens)) for n in turns)
    )
    contexts = []
    for factor in (1, 2, 4):
        rollout = config.rollout
        longer = {"max_feedback_tokens": factor * rollout.max_feedback_tokens}
        longer |= {"max_total_tokens": factor * rollout.max_total_tokens}
        longer_config = config.model_copy(update={"rollout": rollout.model_copy(update=longer)})
        contexts.append((f"{factor} x feedback and context", longer_config, gpus, gpu, load(longer_config)))
    print_rows(f"{name} by context", contexts)
    print_rows(f"{name} by nodes", ((str(n), config, n * gpus, gpu, load(config)) for n in (1, 2, 4, 8)))


if __name__ == "__main__":
    main()
