"""docs/compile.md: its options are the command's, its table is that of the results."""

import re
import subprocess
import sys
from pathlib import Path

from tests.docs import markdown
from vit_jax.training.tpu_slices import TOPOLOGIES

PAGE = "docs/compile.md"
ROOT = Path(__file__).parents[2]


def test_options_are_those_of_the_command(call):
    help_text = call("compile", "--help")[1]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", markdown.text(PAGE))) - {
        "--only",
        "--markdown",
    }
    offered = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_text)) - {"--help"}
    assert named == offered


def test_topologies_are_those_that_there_are():
    text = markdown.text(PAGE)
    for kind in TOPOLOGIES:
        assert re.search(rf"\b{kind}\b", text), kind
    for kind, shape in re.findall(r"\b(v\d\w?|tpu7x):(\d+(?:x\d+)+)", text):
        assert shape in TOPOLOGIES[kind]


def test_the_table_is_that_of_the_results():
    command = [sys.executable, "benchmarks/tpu_compile.py", "--markdown"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in markdown.text(PAGE)
