import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("huggingface_hub")
pytest.importorskip("matplotlib")

import huggingface_hub
from markdown_it import MarkdownIt

from tspo.evaluation.card import write_card
from tspo.evaluation.card.card import fenced, plain
from tspo.evaluation.card.provenance import data_files_of, source_commit
from tspo.evaluation.metrics import summarize
from tspo.evaluation.table import summary_to_json
from tspo.trajectory import read_records

HOSTILE = 'a|b`c*<script>alert(1)</script>[x](http://evil)\n# big\n---\n{{ 7 * 7 }} "q": &amp;\x1b[2J'


@pytest.fixture
def run(tmp_path, write_finished_run):
    """A finished run with a summary as an evaluation leaves it."""
    folder = tmp_path / "mine"
    write_finished_run(folder, curve=(0.0, 0.25, 0.5), answer_in_feedback=(0.1, 0.2, 0.3))
    evaluate_anew(folder)
    return folder


def evaluate_anew(folder):
    place = folder / "evaluation" / "after-training"
    with (place / "trajectories.jsonl").open("rb") as stream:
        trajectories = [trajectory for _, trajectory in read_records(stream, "t")]
    summary = summarize(trajectories)
    (place / "summary.json").write_text(json.dumps(summary_to_json(summary)), encoding="utf-8")
    return summary


def card_of(run, **options):
    write_card(run, run / "model", **options)
    return huggingface_hub.ModelCard.load(run / "model" / "README.md")


def test_the_hub_reads_its_metadata_and_its_results(run):
    card = card_of(run, settings={"model": "Org/Base", "credit": {"algorithm": "grpo"}}, hub_id="me/mine")
    assert card.data.base_model == "Org/Base"
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["tspo", "search-agent", "reinforcement-learning", "grpo"]
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert results == {("wiki", "exact_match"): 0.5, ("wiki", "f1"): 0.5}
    assert card.data.model_name == "me/mine"
    assert "tspo ask model=me/mine" in card.text


def test_results_have_their_intervals_and_the_curves_are_a_picture(run):
    text = card_of(run).text
    overall = evaluate_anew(run).overall
    for metric in ("exact_match", "searches"):
        estimate = overall.metrics[metric]
        assert f"| {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] |" in text or metric == "searches"
    assert "mean of the last 3 steps (3 steps):\nexact match 0.250, answer found 0.200." in text
    assert "![Curves of training" in text
    assert (run / "model" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_has_only_begun_has_a_card(tmp_path):
    write_card(tmp_path, tmp_path, settings={"model": "tspo:starter", "data": {"world": {"passages": 2000}}})
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None
    assert "Not evaluated yet." in card.text
    assert "Nothing in it is real." in card.text
    assert "Files of this run" in card.text
    assert not (tmp_path / "curves.png").exists()


def test_files_are_named_with_their_checksum_and_without_their_place(run, tmp_path):
    secret = tmp_path / "home-of-ann"
    secret.mkdir()
    (secret / "train.jsonl").write_text("x\n")
    settings = {
        "model": str(secret / "base"),
        "output_dir": str(secret),
        "data": {"train": [str(secret / "train.jsonl")], "corpus": str(secret / "gone.jsonl")},
        "rollout": {"server": {"api_key": "hf_secret"}},
    }
    text = (run / "model" / "README.md").read_text() if card_of(run, settings=settings) else ""
    digest = "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
    assert f"| train | train.jsonl | 2 | {digest} |" in text
    assert "| corpus | gone.jsonl |  |  |" in text
    assert "home-of-ann" not in text.replace("output_dir: home-of-ann", "")
    assert "hf_secret" not in text


def test_large_files_are_told_by_their_size(tmp_path):
    with (tmp_path / "c.jsonl").open("wb") as stream:
        stream.truncate(65 * 2**20)
    (file,) = data_files_of({"data": {"corpus": str(tmp_path / "c.jsonl")}})
    assert (file.size, file.sha256) == (65 * 2**20, None)


def test_text_of_others_has_no_effect(run, write_finished_run, tmp_path):
    folder = tmp_path / "hostile"
    write_finished_run(folder, source=lambda question: HOSTILE)
    evaluate_anew(folder)
    settings = {"model": HOSTILE, "rollout": {"prompt": f"```\n</details>{HOSTILE}````", "retriever": HOSTILE}}
    card = card_of(folder, settings=settings)
    assert [result.dataset_name for result in card.data.eval_results] == [HOSTILE, HOSTILE]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.text)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == ["hostile", "Results", "Data", "How it was made", "Citations"]
    html = [token.content for token in tokens if token.type == "html_block"]
    html += [c.content for token in tokens for c in token.children or () if c.type == "html_inline"]
    assert [part.strip() for part in html] == ["<details><summary>All settings</summary>", "</details>"]
    links = [c.attrs["href"] for token in tokens for c in token.children or () if c.type == "link_open"]
    assert not [link for link in links if "evil" in link]
    cells = [token for token in tokens if token.type == "td_open"]
    assert len(cells) % 8 == 0  # no cell was split
    assert "{{ 7 * 7 }}" in card.text
    assert "\x1b" not in card.text


@pytest.mark.parametrize("text", ["", "`", "```", "a `````` b", "~~~", "```yaml"])
def test_a_block_of_code_ends_where_it_should(text):
    (token,) = MarkdownIt().parse(fenced(text, "yaml"))
    assert (token.type, token.content) == ("fence", f"{text}\n")


@pytest.mark.parametrize("text", [HOSTILE, "_x_", "a_b", "![i](j)", "http://x", "&lt;", "\\", "~~x~~", "> q", "- l"])
def test_a_line_is_shown_as_it_is(text):
    (paragraph,) = [t for t in MarkdownIt().enable("strikethrough").parse("x " + plain(text)) if t.type == "inline"]
    assert {child.type for child in paragraph.children} <= {"text", "text_special"}
    shown = "".join(child.content for child in paragraph.children)
    assert shown == "x " + " ".join(re.sub("\x1b", "‹U+001B›", text).split())


def test_the_commit_is_that_of_the_source_tree():
    root = Path(__file__).parents[3]
    result = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    if result.returncode:
        assert source_commit() is None
    else:
        assert (source_commit() or "").split(",")[0] == result.stdout.strip()


def test_settings_come_back_as_they_were(run):
    settings = yaml.safe_load(re.search("```yaml\n(.*?)```", card_of(run).text, re.DOTALL)[1])
    assert settings == {"seed": 0}
