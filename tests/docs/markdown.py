"""The code blocks of a Markdown file."""

import pathlib
import re
import textwrap
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>.*?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A fenced block: its language, its text, and what a comment right above it says."""

    language: str
    text: str
    mark: str
    line: int


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path):
    content = text(path)
    found = [
        Block(
            fence["language"],
            textwrap.dedent(fence["text"]),
            fence["mark"] or "",
            content.count("\n", 0, fence.start("text")) + 1,
        )
        for fence in _FENCE.finditer(content)
    ]
    assert len(found) * 2 == len(re.findall(r"^ *```", content, re.M)), "a fence is not seen"
    return found


def write_files(path, folder):
    """Writes the blocks below `<!-- file: NAME -->` into a folder."""
    for block in blocks(path):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
