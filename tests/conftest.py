from pathlib import Path

import pytest

WIKI_QA = Path(__file__).resolve().parents[1] / "../shared/data/wiki-qa"


@pytest.fixture(scope="session")
def wiki_qa() -> Path:
    """The folder of the wiki-qa data; the test is skipped where it is absent."""
    if not WIKI_QA.is_dir():
        pytest.skip("the wiki-qa data is not at ../shared/data/wiki-qa beside the repository")
    return WIKI_QA
