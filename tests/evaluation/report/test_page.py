import os
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec

import pytest

from tspo.errors import BadInput
from tspo.evaluation.report import write_report

VOID = {"meta", "br", "img", "link", "base", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element is closed where it should be."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.open, self.text = [], [], ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "

    def tags(self):
        return [tag for tag, _ in self.elements]

    def sections(self):
        return [attributes["id"] for tag, attributes in self.elements if tag == "section" and "id" in attributes]


def page_of(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    assert page.open == []
    assert "content=\"default-src 'none'; " in page.source
    return page


def test_a_whole_run_has_all_sections(make_run):
    page = page_of(make_run())
    expected = ["result", "curves", "trajectories", "held-out", "settings", "next"]
    assert page.sections() == [name for name in expected if name != "curves" or find_spec("matplotlib")]
    text = " ".join(page.text.split())
    assert "some-run some/model, warmed up for 2 epochs, trained with TSPO" in text
    assert "after training 0.500 [0.000, 1.000]" in text
    assert "Before → after training, the same 2 questions paired: +0.500 [0, +1.000]." in text
    assert "Step 1, early all wrong, near misses Where is it?" in text
    assert "TSPO 0.5 +1.15 GRPO 0 0" in text
    assert "near miss after training" in text
    assert "group_size: 3" in text


def test_links_lead_somewhere(make_run):
    run = make_run()
    page = page_of(run)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert all(link[1:] in ids if link.startswith("#") else (run / link).exists() for link in links)
    assert len(ids) == sum("id" in attributes for _, attributes in page.elements)


@pytest.mark.parametrize(
    ("missing", "sections"),
    [
        ({"settings": {}}, ["result", "curves", "trajectories", "held-out", "next"]),
        ({"lines": []}, ["result", "trajectories", "held-out", "settings", "next"]),
        ({"evaluations": {}}, ["result", "curves", "trajectories", "settings", "next"]),
        ({"steps": {}}, ["result", "curves", "held-out", "settings", "next"]),
        ({"lines": [], "evaluations": {}, "steps": {}}, ["result", "settings", "next"]),
    ],
)
def test_what_is_missing_is_left_out(missing, sections, make_run):
    pytest.importorskip("matplotlib")
    assert page_of(make_run(**missing)).sections() == sections


def test_without_settings_it_is_said_that_defaults_were_taken(make_run):
    assert "these are the defaults" in page_of(make_run(settings={})).text


def test_numbers_are_shown_where_only_summaries_were_kept(make_run):
    run = make_run(steps={})
    for path in run.glob("evaluation/*/trajectories.jsonl"):
        path.unlink()
    page = page_of(run)
    assert "0.500" in page.text
    assert "held-out" not in page.sections()


def test_one_evaluation_is_compared_with_nothing(make_run, make_group):
    page = page_of(make_run(evaluations={"after-training": make_group("q", "right")}))
    assert "held-out" in page.sections()
    assert "paired" not in page.text


def test_the_runs_method_is_the_first_of_the_two(make_run):
    text = " ".join(page_of(make_run(settings={"credit": {"algorithm": "grpo"}})).text.split())
    assert "GRPO trained this run; the other is what the same trajectories would have been given under TSPO." in text
    assert "GRPO 0 0 TSPO 0.5 +1.15" in text


def test_without_matplotlib_it_is_said_what_to_do(make_run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    page = page_of(make_run())
    assert "pip install matplotlib" in page.text
    assert "svg" not in page.tags()


def test_hostile_text_never_becomes_part_of_the_page(make_run, hostile_run):
    harmless = page_of(make_run("harmless"))
    page = page_of(make_run("hostile", **hostile_run("http://127.0.0.1:9")))
    assert set(page.tags()) <= set(harmless.tags())
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "action", "srcdoc") for name in attributes), tag
        assert all("127.0.0.1" not in (value or "") for value in attributes.values())
        if tag in ("a", "use"):
            assert "//" not in (attributes.get("href") or attributes["xlink:href"])
    assert "<script>document.title" in page.text
    assert "‹U+0000›" in page.text
    assert "‹U+D800›" in page.text
    assert "‹U+202E›evil‹U+202C›" in page.text
    assert "1337" not in page.text
    assert not any(ord(character) < 32 and character not in "\n\t" for character in page.source)


def test_the_name_of_the_folder_is_text_too(make_run):
    page = page_of(make_run("<b>run"))
    assert "<b>run" in page.text
    assert "b" not in page.tags()[: page.tags().index("nav")]


def test_the_page_stays_small_and_says_what_it_leaves_out(make_run, make_group):
    quotes = '"<&' * 20_000
    lines = make_group("g", *["wrong", "near miss", "late near miss", "right"] * 4, question=quotes)
    for line in lines:
        line["turns"] = [
            {"text": quotes, "query": quotes, "feedback": quotes},
            *line["turns"][:2] * 6,
            {"text": f"<answer>{quotes}</answer>", "query": None, "feedback": quotes + "Ann Arbor"},
        ]
        line["data_source"] = quotes
    evaluations = dict.fromkeys(("before", "after-warm-up", "after-training"), lines[:4])
    page = page_of(make_run(steps={1: lines, 2: lines, 3: lines}, evaluations=evaluations))
    assert len(page.source.encode()) <= 3_000_000
    assert "characters left out" in page.text


def test_an_endless_word_is_cut(make_run, make_group):
    lines = make_group("g", "wrong", "near miss")
    lines[1]["turns"][0]["feedback"] = "x" * 1_000_000 + " Ann Arbor " + "y" * 1_000_000
    page = page_of(make_run(steps={1: lines}, evaluations={}))
    assert len(page.source) < 300_000
    assert page.tags().count("mark") == 2  # in the key, and in the feedback
    assert "characters left out" in page.text


def test_the_same_run_gives_the_same_bytes(make_run):
    run = make_run()
    program = "import sys; from tspo.cli import main; sys.exit(main(sys.argv[1:]))"
    pages = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", program, "report", str(run)], env=environment, check=True, timeout=120)
        pages.append((run / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert str(run.parent).encode() not in pages[0]


@pytest.mark.parametrize("credit", [{"algorithm": "dpo"}, {"alpha": "x"}, {"nonsense": 1}, [1], "text"])
def test_bad_credit_settings_name_their_file(credit, make_run):
    run = make_run(settings={"credit": credit})
    with pytest.raises(BadInput, match=r"config\.yaml: credit: "):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_damaged_step_is_named_and_the_old_report_stays(make_run):
    run = make_run()
    before = write_report(run).read_bytes()
    (run / "trajectories/000002.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match=r"000002\.jsonl, line 1"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(BadInput, match="holds no run"):
        write_report(tmp_path)
