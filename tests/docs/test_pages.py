"""Every page: its Python is Python, its commands are ones that we have, its links lead somewhere.

What of it can run here is run by the other tests of this folder.
"""

import posixpath
import re

import pytest

from tests.docs import markdown
from vit_jax.cli import arguments as common
from vit_jax.cli import main as cli
from vit_jax.cli import tpu
from vit_jax.training import overrides
from vit_jax.training.config import OPEN_SECTIONS, base_config, load_config
from vit_jax.training.resolve import check

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(markdown.ROOT)) for path in markdown.ROOT.glob("docs/**/*.md")),
]
PLACEHOLDERS = ("RECIPE", "FILE", "...", "configs/NAME.py")  # in the place of a recipe
UNREAD = {"sh", "shell", "console", "zsh", "py", "python3", "pycon"}  # would be passed over
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("page", PAGES)
def test_python_is_python_and_goes_by_its_name(page):
    for block in markdown.blocks(page):
        where = f"{page}, line {block.line}"
        assert block.language not in UNREAD, f"{where}: write python or bash"
        if block.language == "python":
            compile(block.text, where, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page, checkout, monkeypatch, call):
    """The arguments are the command's, the recipe is there, and takes what is changed."""
    understood = []

    def only_looked_at(arguments, rest):
        recipe = getattr(arguments, "config", None) or str(getattr(arguments, "source", ""))
        changes = common.overrides(rest)
        if recipe.endswith(".py") and recipe not in PLACEHOLDERS:
            check(load_config(recipe, changes))
        elif "mesh" in arguments:  # inspect takes changes of a model's own configuration
            config = base_config()
            for change in changes:
                overrides.apply(config, change, OPEN_SECTIONS)
        elif recipe not in PLACEHOLDERS:
            common.refuse(rest)
        understood.append(arguments)
        return 0

    for command in cli.COMMANDS:
        if command is not tpu:  # test_launch_md.py
            monkeypatch.setattr(command, "run", only_looked_at)
    markdown.write_files(page, checkout)
    given = 0
    for block in markdown.blocks(page):
        if block.language != "bash":
            continue
        for program, *command in markdown.commands(block):
            if program == "vit-jax" and command[0] != "tpu":
                code, _, errors = call(*command)
                assert code == 0, f"{page}, line {block.line}: {' '.join(command)}: {errors}"
                given += 1
    assert len(understood) == given


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^ *```.*?^ *```$", "", markdown.text(page), flags=re.M | re.S)
    for link, heading in _LINK.findall(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) if link else page
        assert (markdown.ROOT / target).is_file(), f"{page}: {link}"
        if heading:
            assert heading in headings(target), f"{page}: {link}#{heading}"


def headings(page):
    """The anchors of a page's headings, as forges and MkDocs make them."""
    found = re.findall(r"^#+ (.*)$|^::: ", markdown.text(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
