import json
from pathlib import Path
from typing import Any

from tspo.training.sample_display import sample_lines

STEP: dict[str, Any] = {
    "question": "Who taught Karo Ven?",
    "golden_answers": ["Tila Brenn", "T. Brenn"],
    "turns": [
        {
            "text": "<think> I look. </think>\n<search> Karo Ven </search>",
            "feedback": 'Doc 1(Title: "Karo Ven") Karo Ven was taught by Tila Brenn.\nDoc 2(Title: "Ven Bank") Old.\n',
        },
        {"text": "<answer> Ven Bank </answer>"},
    ],
    "stop_reason": "answer",
    "outcome": 0.0,
    "first_occurrence": 0,
    "turn_rewards": [0.5, 0.0],
    "turn_advantages": [1.5, -0.25],
}


def shown(tmp_path: Path, **changes: Any) -> list[str]:
    path = tmp_path / "000001.jsonl"
    path.write_text(json.dumps(STEP | changes) + "\n" + json.dumps(STEP | {"question": "Another?"}) + "\n")
    return sample_lines(path)


def test_it_shows_the_turns_what_they_earned_and_where_the_answer_was(tmp_path: Path) -> None:
    text = "\n".join(shown(tmp_path))
    assert "Who taught Karo Ven?" in text
    assert "answer: Tila Brenn" in text
    assert "read: Karo Ven | Ven Bank  <- the answer is here" in text
    assert "reward 0.50  advantage +1.50" in text
    assert "reward 0.00  advantage -0.25" in text
    assert text.endswith("a near miss")
    assert "Another?" not in text


def test_verdicts(tmp_path: Path) -> None:
    assert shown(tmp_path, outcome=1.0)[-1].strip() == "right"
    assert shown(tmp_path, first_occurrence=None, stop_reason="max_turns")[-1].strip() == "wrong (max turns)"


def test_text_from_the_model_stays_one_printable_line(tmp_path: Path) -> None:
    turns = [{"text": "\x1b[2J" + "a\nb" * 300}, {"text": "\u202e\x00"}]
    lines = shown(tmp_path, turns=turns, question="[bold]\x07x[/bold]", first_occurrence=None)
    assert all(character.isprintable() for line in lines for character in line)
    assert max(map(len, lines)) < 200
