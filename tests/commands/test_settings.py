from pathlib import Path

from tspo.cli import main
from tspo.config import RunConfig, describe_settings

DOCS = Path(__file__).parents[2] / "docs/settings.md"


def test_the_docs_hold_what_the_command_prints(capsys) -> None:
    assert main(["settings"]) == 0
    printed = capsys.readouterr().out.strip()
    assert DOCS.read_text(encoding="utf-8").strip().endswith(printed)


def test_every_setting_is_described() -> None:
    text = describe_settings()
    for name in ("training.lora.r", "rollout.max_turns", "credit.alpha", "data.corpus", "model"):
        assert f"| `{name}` |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > len(RunConfig.model_fields)
    assert all(line.rstrip(" |").count("|") >= 4 for line in rows), "a setting without a description"
