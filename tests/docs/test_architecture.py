"""A training step can be read: few modules, few lines, listed in the order one reads them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
SECTION = re.search(r"^## Reading one training step\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
ROW = re.compile(r"^\| \[`[\w/.]+`\]\((\.\./src/tspo/[\w/.]+)\)(?:, from `(\w+)` on)? \| .+ \| (\d+) \|$", re.MULTILINE)
LISTED = [(ROOT / "docs" / path, start, int(told)) for path, start, told in ROW.findall(SECTION)]


def lines_read(module, start):
    """Lines that are not blank, from a function on if there is one to start from."""
    text = module.read_text(encoding="utf-8")
    if start:
        text = text[text.index(f"\ndef {start}(") :]
    return sum(bool(line.strip()) for line in text.splitlines())


def test_a_step_is_at_most_eight_modules_and_nine_hundred_lines():
    table = [line for line in SECTION.splitlines() if line.startswith("| [")]
    assert 1 < len(LISTED) == len(table) <= 8
    assert sum(lines_read(module, start) for module, start, _ in LISTED) <= 900


def test_the_numbers_of_lines_are_told_as_they_are():
    for module, start, told in LISTED:
        assert abs(told - lines_read(module, start)) <= 10, (module, told, lines_read(module, start))


def test_modules_of_the_update_that_are_not_listed_are_named():
    listed = {module.resolve() for module, _, _ in LISTED}
    for module in (ROOT / "src/tspo/training/update").glob("*.py"):
        assert module in listed or f"update/{module.name}" in SECTION, module
