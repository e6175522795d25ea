"""Nothing of src uses a private name of TRL, transformers, accelerate or PEFT."""

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src" / "tspo"
LIBRARIES = {"trl", "transformers", "accelerate", "peft"}

OTHERS = {
    "_SubParsersAction",  # argparse: the only name of its type
    "_loop",  # of WholeContextSampler, in what is derived from it
    "_exit",  # os: the end of a process among several
    "_reorder_linear_weight",  # torch's operators of oneDNN, asked for before they are used
    "_linear_pointwise",
    "_is_mkldnn_bf16_supported",
}
"""Private names of Python, of torch and of our own base classes."""

VERL = SRC / "training" / "verl"
"""The adapter to verl, which is refused for any version but the one that it was written for."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def found_in(path: Path) -> Iterator[str]:
    """Private names that a file imports of the libraries, or takes from an object that is not its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{path.name}:{node.lineno} {name}" for name in names if private(name))
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own | OTHERS:
            yield f"{path.name}:{node.lineno} {node.attr}"


def test_it_finds_what_it_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        "from transformers.models import _auto\nfrom trl import fine\n\n"
        "def f(model):\n    return model.config._attn_implementation, fine.public\n"
    )
    assert list(found_in(path)) == ["some.py:1 _auto", "some.py:5 _attn_implementation"]


def test_no_file_uses_a_private_name_of_a_library() -> None:
    files = [path for path in sorted(SRC.rglob("*.py")) if VERL not in path.parents]
    assert len(files) > 100
    assert [name for path in files for name in found_in(path)] == []
