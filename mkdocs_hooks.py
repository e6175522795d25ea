"""What the documentation's site has beyond its pages: a reference page a module, links to code, formulas without JS."""

from __future__ import annotations

import ast
import posixpath
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

_ROOT = Path(__file__).parent
_SOURCE = _ROOT / "src"
_LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>(?:\.\./)+[^)#\s]+)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add a page for every public module, and one that lists them with their first sentence."""
    lines = ["# Reference\n", "Made from the docstrings, a page a module.\n"]
    for path in _modules():
        name = ".".join(path.relative_to(_SOURCE).with_suffix("").parts).removesuffix(".__init__")
        page = _page_of(path)
        files.append(File.generated(config, page, content=f"# `{name}`\n\n::: {name}\n"))
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        lines.append(f"- [`{name}`]({posixpath.relpath(page, 'reference')}): {summary}")
    files.append(File.generated(config, "reference/index.md", content="\n".join(lines) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave the documentation go to a module's page, or become the name of a file."""
    here = posixpath.dirname(page.file.src_uri)

    def elsewhere(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", here, link["target"]))
        if path.startswith("docs/"):
            return link[0]
        if not (_ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: links to {path}, which is not there")
        if _ROOT / path not in _modules():
            return link["text"]
        return f"[{link['text']}]({posixpath.relpath(_page_of(_ROOT / path), here or '.')})"

    return _LINK.sub(elsewhere, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Formulas as MathML, which browsers draw themselves; the code beside them without a click."""

    def drawn(match: re.Match[str]) -> str:
        formula = convert(unescape(match[2]), display="block" if match[1] == "div" else "inline")
        # browsers heed the style alone
        return formula.replace('columnalign="left"', 'style="text-align: left"')

    if page.file.src_uri == "formulas.md":
        html = html.replace('<details class="mkdocstrings-source">', '<details class="mkdocstrings-source" open>')
    return _FORMULA.sub(drawn, html)


def _modules() -> list[Path]:
    modules = sorted((_SOURCE / "tspo").rglob("*.py"))
    return [path for path in modules if path.name != "__main__.py" and "commands" not in path.parts]


def _page_of(module: Path) -> str:
    relative = module.relative_to(_SOURCE).with_suffix("")
    # a package's page stands beside its modules', and index.md would be a page of another name
    return f"reference/{'/'.join(relative.parts).replace('__init__', 'package')}.md"
