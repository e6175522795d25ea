"""The page in a real browser: nothing runs, nothing is fetched, the numbers are there."""

import os
import re
import subprocess

import pytest

from tspo.evaluation.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(tmp_path, browser_executable):
    """Opens a page; gives its elements as they are once scripts have run and all that is fetched has come."""

    def open_page(path):
        command = [
            browser_executable,
            "--headless",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            path.as_uri(),
        ]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        result = subprocess.run(command, capture_output=True, timeout=120, check=True)
        return result.stdout.decode("utf-8")

    return open_page


def title(dom):
    return dom.split("<title>")[1].split("</title>")[0]


def test_the_headline_is_there(make_run, opened):
    dom = opened(write_report(make_run()))
    assert title(dom) == "some-run: training report"
    assert '<p class="number">0.500</p>' in dom
    assert "[0.000, 1.000]" in dom
    assert "Before → after training, the same 2 questions paired: <strong>+0.500</strong>" in dom


@pytest.mark.parametrize("policy", [True, False], ids=["as it is", "without its content security policy"])
def test_hostile_text_runs_nothing_and_fetches_nothing(policy, make_run, hostile_run, elsewhere, opened):
    address, asked = elsewhere
    path = write_report(make_run("hostile", **hostile_run(address)))
    page = path.read_text(encoding="utf-8").replace("<details", "<details open")
    assert "Content-Security-Policy" in page
    path.write_text(page if policy else page.replace("Content-Security-Policy", "nothing"), encoding="utf-8")
    dom = opened(path)
    assert asked == []
    assert title(dom) == "hostile: training report"
    for element in ("<script", "<img", "<iframe", "<link", "<base", "<object"):
        assert element not in dom
    styles = re.findall(r"<style.*?</style>", dom, re.DOTALL)
    assert styles
    assert not any("@import" in style for style in styles)
    assert dom.count("</main>") == 1


def test_the_same_text_would_do_harm_if_it_were_not_escaped(hostile_run, elsewhere, opened, tmp_path):
    address, asked = elsewhere
    bad = hostile_run(address)["settings"]["model"].encode("utf-8", "replace").decode()
    path = tmp_path / "bare.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><title>bare</title><body>{bad}", encoding="utf-8")
    dom = opened(path)
    assert "taken over" in dom.split("</title>")[0] or asked
    assert {"/fetch", "/image", "/frame"} & set(asked)
