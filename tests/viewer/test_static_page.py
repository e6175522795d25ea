import base64
import hashlib
import json
import re

import pytest

from tspo.errors import BadInput
from tspo.viewer.static_page import bundled, write_static

HOSTILE = "</script><script>document.title = 'taken over'</script><!--<script>"


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_it_holds_the_runs_and_needs_nothing_else(make_run, make_index, tmp_path):
    path = write_static([make_index(make_run()), make_index(make_run("other"))], tmp_path / "page.html", 1000)
    page = path.read_text(encoding="utf-8")
    data = data_of(page)
    assert [len(groups) for groups in data["groups"]] == [8, 8]
    assert [len(views) for views in data["views"]] == [8, 8]
    assert "note" not in data["runs"]
    assert not re.search(r'(src|href)="(?!#)', page)


def test_a_bounded_one_says_how_much_it_holds(make_run, make_index, tmp_path):
    page = write_static([make_index(make_run())], tmp_path / "page.html", 2).read_text(encoding="utf-8")
    data = data_of(page)
    held = sum(group["members"] for group in data["groups"][0])
    assert data["runs"]["note"].startswith(f"This file holds {held} of 20 trajectories")
    assert held < 20
    ids = {group["id"] for group in data["groups"][0]}
    assert all(time["id"] in ids for view in data["views"][0].values() for time in view["history"])


def test_its_policy_names_its_own_script_and_style(make_run, make_index, tmp_path):
    page = write_static([make_index(make_run())], tmp_path / "page.html", 100).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    for kind, text in (
        ("script", re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL).group(1)),
        ("style", re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_no_text_ends_the_data(make_index, make_group, write, tmp_path):
    write(tmp_path / "a.jsonl", make_group("g", "right", question=HOSTILE))
    page = write_static([make_index(tmp_path / "a.jsonl")], tmp_path / "page.html", 100).read_text(encoding="utf-8")
    assert data_of(page)["groups"][0][0]["question"] == HOSTILE
    assert "taken over" in page
    assert page.count("</script>") == 2


def test_modules_become_functions_in_the_order_they_need_each_other(tmp_path):
    (tmp_path / "a.js").write_text('import { two } from "./b.js";\nimport { three } from "./c.js";\nuse(two, three);\n')
    (tmp_path / "b.js").write_text('import { three } from "./c.js";\nexport const two = three - 1;\n')
    (tmp_path / "c.js").write_text("export const three = 3;\nexport async function later() {}\n")
    script = bundled(tmp_path, "a")
    assert script.index("module_c =") < script.index("module_b =") < script.index("module_a =")
    assert "const { three } = module_c;" in script
    assert "return { three, later };" in script
    assert "export" not in script
    assert "import" not in script


def test_a_file_of_nothing_is_refused(make_run, make_index, tmp_path):
    with pytest.raises(BadInput, match="--trajectories 0"):
        write_static([make_index(make_run())], tmp_path / "page.html", 0)
    assert not (tmp_path / "page.html").exists()
