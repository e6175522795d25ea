"""The page as one file that needs neither a server nor a network, with a bounded part of the runs in it.

Its policy lets the scripts and styles run that were written here, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tspo.errors import BadInput
from tspo.files import atomic_write
from tspo.viewer.app import PAGE_FOLDER
from tspo.viewer.content import curves_content, runs_content
from tspo.viewer.group_view import group_view
from tspo.viewer.index import Index
from tspo.viewer.listing import spread_questions

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const) (\w+))", re.MULTILINE)
_STYLES = re.compile(r'<link rel="stylesheet" href="([\w.]+)">\n')


def write_static(indexes: Sequence[Index], path: Path, most: int) -> Path:
    """Write the page with about `most` trajectories of the runs to `path`, whole or not at all; returns `path`.

    Whole questions are taken, with all their steps, evenly over each run. Raises BadInput for `most` below 1.
    """
    if most < 1:
        raise BadInput(f"--trajectories {most}: must be at least 1")
    with atomic_write(path) as stream:
        stream.write(_page(_content(indexes, most)))
    return path


def bundled(folder: Path, entry: str) -> str:
    """The ES modules that `entry` imports, and itself, as one script: each a function that returns what it exports."""
    sources: dict[str, str] = {}
    order = TopologicalSorter[str]()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = (folder / f"{name}.js").read_text(encoding="utf-8")
            imported = [module for _, module in _IMPORT.findall(sources[name])]
            order.add(name, *imported)
            waiting += imported
    return "".join(_as_function(name, sources[name]) for name in order.static_order())


def _as_function(name: str, source: str) -> str:
    exported = [found for _, found in _EXPORT.findall(source)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = module_\2;\n", source))
    return f"const module_{name} = (() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})();\n"


def _content(indexes: Sequence[Index], most: int) -> dict[str, Any]:
    share = max(most // len(indexes), 1)
    groups = [spread_questions(index, share) for index in indexes]
    content = runs_content(indexes, [None] * len(indexes))
    held = sum(group["members"] for of_run in groups for group in of_run)
    there = sum(run["trajectories"] for run in content["runs"])
    if held < there:
        content["note"] = (
            f"This file holds {held:,} of {there:,} trajectories: whole questions, evenly over "
            f"{'each run' if len(indexes) > 1 else 'the run'}. tspo view shows all of them."
        )
    return {
        "runs": content,
        "curves": curves_content(indexes),
        "groups": groups,
        "views": [
            {str(group["id"]): group_view(index, group["id"]) for group in of_run}
            for index, of_run in zip(indexes, groups, strict=True)
        ],
    }


def _page(content: dict[str, Any]) -> str:
    page = (PAGE_FOLDER / "index.html").read_text(encoding="utf-8")
    style = "".join((PAGE_FOLDER / name).read_text(encoding="utf-8") for name in _STYLES.findall(page))
    script = bundled(PAGE_FOLDER, "main")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    # No "<" can be in it: nothing in a text ends the element, or begins a comment.
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>\n'
        f'<script type="application/json" id="data">{data}</script>\n'
    )
    for old in ('<link rel="icon" href="icon.svg">\n', '<script type="module" src="main.js"></script>\n'):
        page = page.replace(old, "")
    page = _STYLES.sub("", page).replace("</head>", f"{head}</head>")
    return page.replace("</body>", f'<script type="module">{script}</script>\n</body>')


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"
