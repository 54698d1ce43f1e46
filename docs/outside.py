"""Brings into the site what its pages link to outside of `docs/`.

A link such as `../configs/digits.py` works where the repository is shown as files. A site has only
what lies in `docs/`, so each file that is linked, or that the navigation names below `outside/`,
becomes a page there: Markdown as it is, a notebook as text and code, any other file as one block of
code. Links are turned to where their targets are, and MkDocs checks them all.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS, OUTSIDE = "docs/", "outside/"
_LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+(?=[)#])")  # of [text](link#heading), no address
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file outside of `docs/`, and for those that they link to in turn."""
    waiting = {_source(uri) for uri in _strings(config.nav) if uri.startswith(OUTSIDE)}
    for file in files.documentation_pages():
        waiting |= _linked(file.content_string, DOCS + file.src_uri)
    done: set[str] = set()
    while waiting - done:
        source = min(waiting - done)
        text = _page(source)
        files.append(File.generated(config, _uri(source), content=text))
        waiting |= _linked(text, source)
        done.add(source)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links of a page to where their targets are in the site."""
    del config, files
    source = _source(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri) or "."

    def turned(link: re.Match) -> str:
        target = _target(link[0], source)
        return posixpath.relpath(_uri(target), folder) if _is_file(target) else link[0]

    return _LINK.sub(turned, markdown)


def _uri(source: str) -> str:
    """The place in the site of a file of the repository."""
    if source.startswith(DOCS):
        return source.removeprefix(DOCS)
    return OUTSIDE + source + ("" if source.endswith(".md") else ".md")


def _source(uri: str) -> str:
    """The file of the repository that a page of the site shows; inverse of `_uri`."""
    if not uri.startswith(OUTSIDE):
        return DOCS + uri
    name = uri.removeprefix(OUTSIDE)
    return name if _is_file(name) else name.removesuffix(".md")


def _linked(text: str, source: str) -> set[str]:
    """The files outside of `docs/` to which the text of a file links."""
    targets = {_target(link, source) for link in _LINK.findall(text)}
    return {target for target in targets if _is_file(target) and not target.startswith(DOCS)}


def _target(link: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _is_file(name: str) -> bool:
    return not name.startswith("..") and (ROOT / name).is_file()


def _page(source: str) -> str:
    """The Markdown of a page that shows a file."""
    path = ROOT / source
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return f"<!-- {source} -->\n\n" + "\n\n".join(map(_cell, json.loads(text)["cells"])) + "\n"
    return f"# {source}\n\n{_fenced(text, _LANGUAGES.get(path.suffix, 'text'))}\n"


def _cell(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else _fenced(text, "python")


def _fenced(text: str, language: str) -> str:
    return f"~~~~{language}\n{text.rstrip()}\n~~~~"


def _strings(nav: Any) -> Iterator[str]:
    """All strings of a nested navigation."""
    if isinstance(nav, str):
        yield nav
    elif nav is not None:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _strings(entry)
