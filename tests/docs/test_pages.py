"""What the documentation says of names in the code is so, and its site asks nobody else for anything."""

import copy
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tspo.cli import _parser
from tspo.trajectory import StopReason, Trajectory, Turn

ROOT = Path(__file__).parents[2]


def documented_metrics():
    """The names in the first column of training.md's tables of metrics, each that stands for several written out."""
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    section = re.search(r"^## `metrics.jsonl`\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)[1]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    names = [name for cell in cells for name in re.findall("`(.+?)`", cell)]
    stand_for = {"METHOD": ("grpo", "tspo"), "REASON": tuple(StopReason)}
    for word, values in stand_for.items():
        names = [name.replace(word, value) for name in names for value in (values if word in name else ("",))]
    return names


def written_metrics(tokenizer, model):
    """The names in the line of a step with a KL, several updates, searches and a cache."""
    from accelerate import Accelerator

    from tspo.credit import CreditConfig
    from tspo.datasets.questions import Question
    from tspo.rollout.batched_search import SearchLog
    from tspo.rollout.codec import Codec
    from tspo.training.learner import LearnerSettings, make_learner
    from tspo.training.loop import train
    from tspo.training.objective import Objective
    from tspo.training.signals import StopRequest
    from tspo.training.step import StepInputs, StepSettings
    from tspo.training.training_state import Progress

    def rollout(requests):
        made = []
        for answer, request in zip(("Oslo", "Rome"), requests, strict=True):
            turns = [Turn("<search>it</search>", "it", "in Oslo", [7, 8], [-1.0, -1.0], [9]), Turn(answer, None, None)]
            turns[1].token_ids, turns[1].logprobs = [10], [-1.0]
            asked = (request.group_id, request.trajectory_id, "Where?", ["Oslo"])
            made.append(Trajectory(*asked, turns, answer, StopReason.ANSWER, prompt_token_ids=[1, 2]))
        return made, SearchLog([0.5, 0.5], cache_hits=1, cache_misses=1)

    settings = LearnerSettings(steps=2, learning_rate=1e-3, with_reference=True)
    learner = make_learner(copy.deepcopy(model), settings, Accelerator(cpu=True), copy.deepcopy(model))
    inputs = StepInputs([Question("q", "Where?", ("Oslo",), "made")], rollout, None, Codec(tokenizer), learner)
    lines = []
    train(
        inputs,
        StepSettings(1, 2, CreditConfig(), Objective(beta=0.1), epochs=2),
        steps=1,
        done=Progress(),
        save_every=1,
        save=lambda _: None,
        on_step=lines.append,
        stop=StopRequest(lambda: None),
    )
    return set(lines[0])


def test_every_metric_that_a_step_writes_is_documented_once(tiny_tokenizer, tiny_model):
    pytest.importorskip("peft")
    names = documented_metrics()
    assert len(set(names)) == len(names)
    assert set(names) == written_metrics(tiny_tokenizer, tiny_model)


def test_the_metrics_of_the_faq_are_documented():
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_/]+)`", " ".join(re.findall(r"\*\*Look at\*\*(.*?)\n\n", page, re.DOTALL))))
    assert len(named) > 15
    assert named - set(documented_metrics()) <= {"report.html", "evaluation/"}


PAGES = [ROOT / "docs" / f"{name}.md" for name in ("index", "tutorial", "ask")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_as_the_program_takes_them(page):
    text = page.read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", "")
    commands = re.findall(r"(?:^|\$ |&& )tspo (.*?)(?: \|.*)?$", shown, re.MULTILINE)
    assert commands
    for command in commands:
        arguments, unknown = _parser().parse_known_args(shlex.split(command))
        assert not [argument for argument in unknown if argument.startswith("-")], command
        assert "run" in arguments, command


def test_configurations_are_valid(tmp_path):
    pytest.importorskip("pydantic")
    from tspo.config import load_config

    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        (tmp_path / "my.yaml").write_text(block, encoding="utf-8")
        load_config(tmp_path / "my.yaml")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation, built strictly."""
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(package, reason="pip install 'tspo[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s>]+")
    links = re.compile(
        r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*href=[\"']?(?:https?:)?//"
    )
    styles = re.compile(r"(?:@import\s+[\"']?|url\([\"']?)(?:https?:)?//")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not [found.group() for pattern in (loads, links, styles) for found in pattern.finditer(text)], page
    for style in site.rglob("*.css"):
        assert not styles.search(style.read_text(encoding="utf-8")), style


def test_formulas_are_drawn_without_a_script(site):
    page = (site / "formulas.html").read_text(encoding="utf-8")
    source = (ROOT / "docs/formulas.md").read_text(encoding="utf-8")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", source, re.DOTALL)
    assert page.count("<math") == len(formulas) > 10
    assert "arithmatex" not in page
    assert "def turn_rewards" in re.sub("<[^>]+>", "", page)


def test_code_is_linked_to_its_reference(site):
    page = (site / "faq.html").read_text(encoding="utf-8")
    assert 'href="reference/tspo/rewards/folr.html"' in page
    assert (site / "reference/tspo/rewards/folr.html").is_file()
    assert "tests/docs/test_extend.py" in (site / "extend.html").read_text(encoding="utf-8")
