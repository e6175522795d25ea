from typing import Any

import pytest


@pytest.fixture(scope="package")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    from tspo.training.starter.tokenizer import make_tokenizer

    return make_tokenizer(1024, worlds=1)
