"""Make the starter policy: `python -m tspo.training.starter FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tspo.training.starter.recipe import Recipe, make_starter, save_starter

_EVERY = 50


def main() -> None:
    """Train, show the loss, save."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tspo.training.starter FOLDER")
    log: list[dict[str, object]] = []

    def on_step(stage: str, step: int, loss: float) -> None:
        if step % _EVERY == 0:
            log.append({"stage": stage, "step": step, "loss": round(loss, 4)})
            print(f"{stage:6} step {step:5}  loss {loss:.4f}", flush=True)

    recipe = Recipe()
    model, tokenizer = make_starter(recipe, on_step)
    save_starter(model, tokenizer, recipe, log, Path(sys.argv[1]))
    print(f"{model.num_parameters():,} parameters in {sys.argv[1]}")


if __name__ == "__main__":
    main()
