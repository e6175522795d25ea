"""What the documentation says of names in the code is so, and its site asks nobody else for anything."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tspo.cli import _parser

ROOT = Path(__file__).parents[2]


def test_the_metrics_of_the_faq_are_those_that_training_writes():
    pytest.importorskip("torch")
    from tspo.credit import CreditConfig, assign_credit
    from tspo.rollout.batched_search import SearchLog
    from tspo.training.diagnostics import rollout_metrics, search_metrics
    from tspo.training.metrics_log import metrics_line
    from tspo.trajectory import StopReason, Trajectory, Turn

    trajectory = Trajectory("g", "t", "q", ["a"], [Turn("x", token_ids=[1])], None, StopReason.NO_ACTION)
    credits = assign_credit([trajectory], CreditConfig())
    logs = {f"tspo/{name}": 0.0 for name in rollout_metrics([trajectory], credits, CreditConfig(), 1.0)}
    trl = ("loss", "grad_norm", "kl", "entropy", "clip_ratio/region_mean", "learning_rate", "reward")
    written = set(metrics_line(1, logs | dict.fromkeys(trl, 0.0))) | set(search_metrics([SearchLog([1.0])]))
    written |= {"logprob_gap", "grad_norm_all_wrong"}  # of the update itself
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_/]+)`", " ".join(re.findall(r"\*\*Look at\*\*(.*?)\n\n", page, re.DOTALL))))
    assert len(named) > 15
    assert named - written <= {"report.html", "evaluation/"}


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
