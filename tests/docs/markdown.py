"""The code blocks of a Markdown file: found, written into files, and run from top to bottom."""

import pathlib
import re
import shlex
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


def commands(block):
    """The commands of a block in bash, each as its words: without comments, variables that are set
    before it, and what follows a pipe, a redirection or `&`."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            ends = [i for i, word in enumerate(words) if word in ("|", "&", ">", "2>")]
            words = words[: ends[0]] if ends else words
            if words:
                found.append(words)
    return found


def only_ours(path):
    """The commands of a page whose blocks are all Python, or nothing but `vit-jax`."""
    found = []
    for block in blocks(path):
        assert block.language in ("bash", "python"), block
        found += commands(block) if block.language == "bash" else []
    assert {words[0] for words in found} == {"vit-jax"}
    return found


def run(path, call, shorter=(), passed=lambda command: False):
    """Runs a page from top to bottom in the current folder; returns what its Python has named.

    Files are written, Python runs in one namespace, and each `vit-jax` command has to end with 0.
    Commands of other programs are passed over.

    Args:
      path: of the page.
      call: the fixture.
      shorter: changes of the configuration for each `vit-jax train`.
      passed: of a command's words; which ones are not run.
    """
    names = {}
    for block in blocks(path):
        where = f"{path}, line {block.line}"
        if block.mark.startswith("file: "):
            pathlib.Path(block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "bash":
            for program, *command in commands(block):
                if program == "vit-jax" and not passed(command):
                    changes = [f"--config.{x}" for x in shorter if command[0] == "train"]
                    code, _, errors = call(*command, *changes)
                    assert code == 0, f"{where}: {shlex.join(command)}: {errors}"
    return names
