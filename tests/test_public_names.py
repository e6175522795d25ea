"""What `import tspo` gives: these names and no others, each when it is asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tspo

NAMES = [
    "AgentLoop",
    "BM25Retriever",
    "BadInput",
    "Codec",
    "Credit",
    "CreditConfig",
    "HTTPRetriever",
    "Limits",
    "Passage",
    "Question",
    "Request",
    "Trainer",
    "Trajectory",
    "TransformersSampler",
    "Turn",
    "assign_credit",
    "evaluate",
    "open_index",
    "read_questions",
    "read_trajectories",
]
NEEDS = {"Trainer": "train", "evaluate": "train", "TransformersSampler": "train", "HTTPRetriever": "serve"}
FIRST_OF = {"train": ("torch", "accelerate", "transformers"), "serve": ("httpx",)}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_names():
    assert tspo.__all__ == NAMES
    assert set(NAMES) <= set(dir(tspo))
    assert len(dir(tspo)) == len(set(dir(tspo)))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_says_what_it_is(name):
    for package in FIRST_OF.get(NEEDS.get(name), ()):
        pytest.importorskip(package)
    value = getattr(tspo, name)
    assert value.__name__ == name
    assert value is getattr(importlib.import_module(value.__module__), name)
    first = value.__doc__.strip().splitlines()[0]
    assert first[0].isupper()
    assert first[-1] in ".:"


def test_type_checkers_are_told_the_same():
    tree = ast.parse(Path(tspo.__file__).read_text(encoding="utf-8"))
    told = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("tspo.")]
    assert {alias.asname: node.module for node in told for alias in node.names} == {
        name: f"tspo.{module}" for name, module in tspo._MODULES.items()
    }
    assert all(alias.name == alias.asname for node in told for alias in node.names)


def test_importing_it_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import tspo; print(sorted(set(sys.modules) - before))"
    assert python(code).stdout == "['tspo']\n"


def test_what_needs_no_extra_imports_neither_torch_nor_transformers():
    names = sorted(set(NAMES) - set(NEEDS))
    code = f"import sys; from tspo import {', '.join(names)}; print({{'torch', 'transformers'}} & set(sys.modules))"
    assert python(code).stdout == "set()\n"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("Trainer", "torch"),
        ("Trainer", "peft"),
        ("evaluate", "accelerate"),
        ("TransformersSampler", "transformers"),
        ("HTTPRetriever", "httpx"),
    ],
)
def test_a_name_whose_extra_is_not_installed_says_how_to_have_it(name, missing):
    for package in FIRST_OF[NEEDS[name]]:
        pytest.importorskip(package)
    hide = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name={missing!r})
sys.meta_path.insert(0, Hidden())
from tspo import {name}
"""
    error = python(hide).stderr
    assert error.splitlines()[-1] == f"ImportError: tspo.{name} needs {missing}; pip install 'tspo[{NEEDS[name]}]'"
    assert error.count("Traceback") == 1


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="module 'tspo' has no attribute 'train'"):
        tspo.train  # noqa: B018
