"""bm25s without JAX, which it would import where that is installed, and which takes a GPU's memory at once.

Nothing here is computed with it. Import bm25s from here, and nowhere else.
"""

from __future__ import annotations

import sys

_LOADED = "jax" in sys.modules
if not _LOADED:  # by the program itself: its own affair
    sys.modules["jax"] = None  # type: ignore[assignment]  # an import of it fails
try:
    import bm25s
    from bm25s.stopwords import STOPWORDS_EN
finally:
    if not _LOADED:
        del sys.modules["jax"]

__all__ = ["STOPWORDS_EN", "bm25s"]
