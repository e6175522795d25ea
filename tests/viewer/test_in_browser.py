"""The page in a real browser: what is clicked and typed does what it says, nothing hostile runs, all can be read."""

import os
import re
import threading

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("playwright")

from playwright.sync_api import expect, sync_playwright

from tspo.retrieval.serving import Service, address_of, bind
from tspo.viewer import app as app_module
from tspo.viewer.app import create_app
from tspo.viewer.static_page import write_static

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(browser_executable):
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        expect.set_options(timeout=60_000)
        started = driver.chromium.launch(executable_path=browser_executable, args=arguments)
        yield started
        started.close()


@pytest.fixture
def serve(make_index):
    """Serves runs; the address."""
    services = []

    def start(*runs):
        bound = bind("127.0.0.1", 0)
        ready = threading.Event()
        app = create_app([make_index(run) for run in runs])
        service = Service(app, bound, drain_seconds=1, on_ready=ready.set)
        thread = threading.Thread(target=service.run)
        thread.start()
        services.append((service, thread, bound))
        assert ready.wait(60)
        return address_of(bound) + "/"

    yield start
    for service, thread, bound in services:
        service.stop()
        thread.join()
        bound.close()


@pytest.fixture
def open_page(browser):
    """Opens an address; what the page says on its console but for plain logs, and its errors, must stay empty."""
    complaints = []
    contexts = []

    def start(address, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(params=["served", "one file"])
def address(request, make_run, make_index, serve, tmp_path):
    """A run as it is served, and as one static file."""
    run = make_run()
    if request.param == "served":
        return serve(run)
    return write_static([make_index(run)], tmp_path / "page.html", 1000).as_uri()


def questions(page):
    return page.locator(".row .asked").all_inner_texts()


def current(page):
    return page.locator(".row[aria-current]").inner_text().split("\n")


def test_a_click_shows_the_group_turn_by_turn(address, open_page):
    page = open_page(address)
    page.locator(".row", has_text="step 2").first.click()
    page.wait_for_selector(".turn")
    assert page.locator("#group h1").inner_text() == "Where is it?"
    assert page.locator(".golden").inner_text() == "Golden answer Ann Arbor"
    assert page.locator(".columns .member-head").count() == 3
    assert page.locator(".columns .turn").count() == 6
    assert set(page.locator(".columns mark").all_inner_texts()) == {"Ann Arbor"}
    assert page.locator(".found").count() == 2
    assert page.locator(".policy").first.inner_text() == "<think>Look.</think><search>it</search>"


def test_filters_and_search_narrow_the_list(address, open_page):
    page = open_page(address)
    page.wait_for_selector(".row")
    assert len(questions(page)) == 8
    page.click("[data-name='near miss']")
    expect(page.locator(".row")).to_have_count(4)
    assert page.locator("#count").inner_text() == "4 groups, 12 trajectories"
    page.click("[data-name='all-wrong']")
    expect(page.locator(".row")).to_have_count(2)
    page.click("[data-name='near miss']")
    page.click("[data-name='all-wrong']")
    page.keyboard.press("/")
    page.keyboard.type("WHO?")
    expect(page.locator(".row")).to_have_count(2)
    assert questions(page) == ["Who?", "Who?"]
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn")
    page.fill("#text", "")
    page.fill("#first", "3")
    page.keyboard.press("Enter")
    page.fill("#last", "3")
    page.locator("#last").blur()
    expect(page.locator(".row")).to_have_count(2)
    page.fill("#text", "no such thing")
    page.wait_for_selector(".nothing")


def test_the_keyboard_goes_everywhere(address, open_page):
    page = open_page(address)
    page.wait_for_selector(".row")
    keys = page.keyboard
    keys.press("j")
    page.wait_for_selector(".turn")
    assert current(page)[1] == "before"
    keys.press("j")
    keys.press("j")
    expect(page.locator("#group h1")).to_have_text("Who?")
    keys.press("k")
    expect(page.locator("#group h1")).to_have_text("Where is it?")
    keys.press("ArrowRight")
    expect(page.locator(".eyebrow")).to_contain_text("step 2")
    keys.press("ArrowLeft")
    expect(page.locator(".eyebrow")).to_contain_text("step 1")
    keys.press("2")
    page.wait_for_selector(".columns.one")
    assert page.locator(".columns .member-head h2").inner_text() == "Trajectory 2"
    keys.press("0")
    expect(page.locator(".columns .member-head")).to_have_count(3)
    keys.press("?")
    page.wait_for_selector("#help[open]")
    assert "next question" in page.locator("#help").inner_text()
    keys.press("Escape")
    page.wait_for_selector("#help", state="hidden")
    keys.press("v")
    page.wait_for_selector(".chart")
    keys.press("v")
    page.wait_for_selector(".turn")
    keys.press("Escape")
    page.wait_for_selector(".empty")
    page.locator(".row").first.focus()
    keys.press("ArrowDown")
    page.wait_for_selector(".turn")


def test_the_switch_shows_another_estimator_s_credit_for_the_same_group(address, open_page):
    page = open_page(address + "#first=1&last=1")
    page.locator(".row", has_text="Where is it?").click()
    page.wait_for_selector(".matrix")

    def advantages():
        return page.locator(".matrix .advantage-number").all_inner_texts()

    under_tspo = advantages()
    assert under_tspo == ["−0.58", "0", "+1.15", "0", "−0.58", "0"]
    page.click("[data-key=grpo]")
    page.wait_for_selector("[data-key=grpo][aria-pressed=true]")
    assert advantages() == ["0"] * 6
    page.keyboard.press("c")
    page.wait_for_selector("[data-key=grpo][aria-pressed=false]")
    page.click("[data-key=tspo]")
    assert advantages() == under_tspo


def test_the_slider_goes_through_the_steps_of_a_question(address, open_page):
    page = open_page(address)
    page.locator(".row").first.click()
    page.wait_for_selector("input[type=range]")
    seen = [page.locator(".eyebrow span").first.inner_text()]
    page.locator("input[type=range]").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".eyebrow")).not_to_contain_text(seen[-1])
        seen.append(page.locator(".eyebrow span").first.inner_text())
    assert seen == ["before", "step 1", "step 2", "step 3", "after training"]
    page.locator(".time").nth(1).click()
    expect(page.locator(".eyebrow")).to_contain_text("step 1")


def test_a_token_tells_its_probability_and_ratio(address, open_page):
    page = open_page(address + "#first=1&last=1")
    page.locator(".row").first.click()
    page.wait_for_selector(".token")
    page.locator(".token").nth(1).scroll_into_view_if_needed()
    # The scroll event, which hides the tip, comes with the next frame.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.locator(".token").nth(1).hover()
    page.wait_for_selector("#tip:visible")
    said = page.locator("#tip").inner_text()
    assert "k>Loo" in said
    assert "-1.0000" in said
    assert "36.79 %" in said
    assert re.search(r"ratio in the update\s+0\.6\d{3}", said)


def test_arrows_go_through_the_tokens_of_the_turn_that_has_the_focus(address, open_page):
    page = open_page(address + "#first=1&last=1")
    page.locator(".row").first.click()
    page.wait_for_selector(".token")
    turn = page.locator(".policy").nth(1)
    turn.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".token.at")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    expect(turn.locator(".at")).to_have_text("er>Bo")
    expect(page.locator("#tip")).to_contain_text("-1.0000")
    # Scrolling, which taking the focus may do a moment later, loses neither the place nor its facts.
    turn.evaluate("element => element.dispatchEvent(new Event('scroll'))")
    expect(page.locator("#tip")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(turn.locator(".at")).to_have_text("b</an")
    turn.blur()
    expect(page.locator("#tip")).to_be_hidden()


def test_what_is_not_in_the_file_is_said(address, open_page):
    page = open_page(address)
    page.locator(".row", has_text="before").click()
    page.wait_for_selector(".turn")
    assert "does not say where single tokens are" in page.locator(".note").inner_text()
    page.locator(".row", has_text="step 2").first.click()
    expect(page.locator(".note")).to_contain_text("ratio in the update is not there")


def test_curves_of_runs_are_laid_over_each_other_and_lead_to_their_steps(make_run, serve, open_page):
    page = open_page(serve(make_run(), make_run("other")) + "#view=curves")
    chart = page.locator(".chart").first
    chart.wait_for()
    assert chart.locator(".line").count() == 2
    assert page.locator(".runs .run").all_inner_texts() == ["some-run", "other"]
    page.locator("summary", has_text="Settings of other").click()
    assert "model: some/model" in page.locator(".settings").last.inner_text()
    chart.locator("svg").hover(position={"x": 200, "y": 60})
    assert "step 2" in chart.locator(".readout").inner_text()
    chart.locator("svg").click(position={"x": 200, "y": 60})
    page.wait_for_selector(".row")
    assert {row.split("\n")[1] for row in page.locator(".row").all_inner_texts()} == {"step 2"}
    page.locator(".runs button", has_text="other").click()
    page.wait_for_selector(".runs button:has-text('other')[aria-pressed=true]")


def test_another_run_shows_the_same_question_at_the_nearest_step(make_run, make_group, serve, open_page):
    other = {step: make_group(f"{step}", "wrong", question="Who?") for step in (2, 5)}
    page = open_page(serve(make_run(), make_run("other", steps=other)) + "#text=who?&first=3")
    page.locator(".row").click()
    page.wait_for_selector(".turn")
    page.locator(".runs button", has_text="other").click()
    expect(page.locator(".eyebrow")).to_contain_text("step 2")
    expect(page.locator("#group h1")).to_have_text("Who?")


def test_the_list_is_fetched_page_by_page(tmp_path, write, make_group, serve, open_page):
    path = tmp_path / "long.jsonl"
    write(path, [line for k in range(200) for line in make_group(f"g{k}", "right", question=f"Question {k}?")])
    page = open_page(serve(path))
    page.wait_for_selector(".row")
    assert len(questions(page)) == 60
    page.locator(".row").last.scroll_into_view_if_needed()
    expect(page.locator(".row")).to_have_count(120)
    page.locator(".row").last.click()
    page.keyboard.press("j")
    expect(page.locator(".row[aria-current]")).to_contain_text("Question 120?")


def test_the_page_grows_with_the_run(make_run, write, make_group, serve, open_page, monkeypatch):
    monkeypatch.setattr(app_module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    run = make_run()
    page = open_page(serve(run))
    page.wait_for_selector(".row")
    write(run / "trajectories" / "000004.jsonl", make_group("4-0", "right", question="A new one?"))
    page.wait_for_selector("#count:has-text('9 groups')")


def test_the_theme_follows_the_system_and_then_the_reader(address, open_page):
    page = open_page(address, color_scheme="dark")
    page.wait_for_selector(".row")

    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = background()
    page.keyboard.press("t")
    light = background()
    assert dark != light
    page.reload()
    page.wait_for_selector(".row")
    assert background() == light
    page.click("#theme")
    assert background() == dark


def test_on_a_phone_the_page_is_as_wide_as_the_screen(address, open_page):
    page = open_page(address, viewport={"width": 360, "height": 740}, has_touch=True)
    page.locator(".row", has_text="step 2").first.tap()
    page.wait_for_selector(".turn")
    for place in ("", "#view=curves"):
        if place:
            page.goto(address + place)
            page.wait_for_selector(".chart")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(address)
    page.locator(".row", has_text="step 2").first.tap()
    page.locator(".back").tap()
    page.locator(".row").first.wait_for()


CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const behind = (element) => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.push(rgba(getComputedStyle(at).backgroundColor));
    return chain.reverse().reduce((under, colour) => over(colour, under), [1, 1, 1]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = {};
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility({ opacityProperty: true })) continue;
    if (element.closest(".unseen, noscript, script, style, option")) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const ink = over(rgba(element instanceof SVGElement ? style.fill : style.color), back);
    const [a, b] = [luminance(ink), luminance(back)].sort((x, y) => y - x);
    const name = `${element.tagName}.${element.getAttribute("class") ?? ""}`;
    found[name] = Math.min(found[name] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_a_contrast_of_4_5_and_more(make_run, serve, open_page, scheme):
    page = open_page(serve(make_run(), make_run("other")), color_scheme=scheme)
    page.locator(".row", has_text="step 2").first.click()
    page.wait_for_selector(".turn")
    found = page.evaluate(CONTRASTS)
    page.keyboard.press("p")
    page.evaluate("for (const one of document.querySelectorAll('.token')) one.style.setProperty('--share', '30%')")
    shaded = page.evaluate(CONTRASTS)
    assert shaded["SPAN.token"] < found["SPAN.token"]
    page.locator(".token").first.hover()
    page.wait_for_timeout(300)
    found |= {f"{name} shaded": value for name, value in shaded.items()} | page.evaluate(CONTRASTS)
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    found |= page.evaluate(CONTRASTS)
    page.keyboard.press("Escape")
    page.goto(page.url.split("#")[0] + "#view=curves")
    page.wait_for_selector(".chart")
    found |= page.evaluate(CONTRASTS)
    assert len(found) > 40
    assert {name: value for name, value in found.items() if value < 4.5} == {}


def hostile_lines(make_group, address):
    bad = (
        f"</script><script>document.title = 'taken over'; fetch('{address}/fetch')</script>"
        f"<img src='{address}/image' onerror=\"document.title = 'taken over'\">"
        f"<svg onload=\"document.title = 'taken over'\"><iframe src='{address}/frame'></iframe>"
        f"<style>@import url({address}/style)</style>\" onmouseover=\"document.title = 'taken over'\" ' "
        "\u202eevil\u202c \x00\x1b <!-- {{ 7 * 191 }} &lt;b&gt; ]]>"
    )
    lines = make_group("g" + bad, "right", "near miss", "wrong", question="Who? " + bad)
    for line in lines:
        line["golden_answers"].append(bad)
        for turn in line["turns"]:
            turn["text"] = f"{turn['text']}{bad}"
            turn["query"] = turn["query"] and bad
            turn["feedback"] = turn["feedback"] and f"{bad} {turn['feedback']} {bad}"
        if line is lines[2]:
            line["answer"] = bad
    return lines


@pytest.mark.parametrize("where", ["served", "one file"])
def test_hostile_text_runs_nothing_and_fetches_nothing(
    where, tmp_path, write, make_group, make_index, serve, browser, elsewhere
):
    address, asked = elsewhere
    path = tmp_path / "a.jsonl"
    write(path, hostile_lines(make_group, address))
    if where == "served":
        page_address = serve(path)
    else:
        page_address = write_static([make_index(path)], tmp_path / "page.html", 100).as_uri()
    # Without the policy too: the text must be harmless by itself.
    context = browser.new_context(bypass_csp=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(page_address)
    page.locator(".row").first.click()
    page.wait_for_selector(".turn")
    page.locator(".policy").first.hover()
    page.keyboard.press("v")
    page.keyboard.press("v")
    page.wait_for_timeout(500)
    assert asked == []
    assert page.title().endswith("tspo view")
    assert page.locator("img, iframe, .group svg, .group style, .group script").count() == 0
    assert "</script><script>" in page.locator("#group h1").inner_text()
    assert "‹U+202E›evil‹U+202C›" in page.locator("#group h1").inner_text()
    context.close()


@pytest.mark.parametrize("where", ["served", "one file"])
def test_the_policy_stops_what_would_get_through(where, make_run, make_index, serve, browser, elsewhere, tmp_path):
    outside, asked = elsewhere
    run = make_run()
    address = serve(run) if where == "served" else write_static([make_index(run)], tmp_path / "p.html", 99).as_uri()
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".row")
    refused = page.evaluate(
        """async (outside) => {
          const refused = [];
          document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
          const put = (html) => document.body.insertAdjacentHTML("beforeend", html);
          put(`<img src="${outside}/image" onerror="document.title = 'taken over'">`);
          put(`<iframe src="${outside}/frame"></iframe>`);
          put(`<p style="color: red">`);
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken over'";
          document.body.append(script);
          await fetch(`${outside}/fetch`).catch(() => {});
          await new Promise((done) => setTimeout(done, 500));
          return refused;
        }""",
        outside,
    )
    assert {"img-src", "frame-src", "style-src-attr", "script-src-elem", "connect-src"} <= set(refused)
    assert asked == []
    assert page.title().endswith("tspo view")
    context.close()
