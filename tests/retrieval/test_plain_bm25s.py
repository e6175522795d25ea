import os
import subprocess
import sys
from pathlib import Path

import pytest

SEARCH = """
import sys
from tspo.datasets.corpus import Document
from tspo.retrieval.bm25 import BM25Retriever
[[found]] = BM25Retriever.build([Document("0", "Oslo is in Norway"), Document("1", "Rome")]).search(["oslo"], 1)
assert found.id == "0"
print([name for name in sys.modules if name.partition(".")[0] == "jax"])
"""


@pytest.mark.parametrize("first", ["", "import jax"])
def test_jax_is_not_imported(tmp_path: Path, first: str) -> None:
    """It would take three quarters of a GPU's memory as it is imported; a program's own import is its own affair."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("" if first else "raise SystemExit('jax was imported')")
    (tmp_path / "jax" / "lax.py").write_text("raise ImportError")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", f"{first}\n{SEARCH}"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == (["['jax']"] if first else ["[]"])


def test_jax_can_be_imported_afterwards() -> None:
    import tspo.retrieval.plain_bm25s  # noqa: F401

    assert sys.modules.get("jax", "absent") is not None
