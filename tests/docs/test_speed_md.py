"""docs/speed.md: its table is that of the results, its commands are scripts that there are."""

import re
import subprocess
import sys

from tests.docs import markdown

PAGE = "docs/speed.md"
NOT_SCRIPTS = {"short_attention.py", "recompute.py", "platform.py"}


def test_the_table_is_that_of_the_results():
    printed = subprocess.run(
        [sys.executable, "steps.py", "--markdown"],
        cwd=markdown.ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() in markdown.text(PAGE)


def test_scripts_and_modules_are_there():
    text = markdown.text(PAGE)
    scripts = set(re.findall(r"\b(\w+\.py)\b", text)) - NOT_SCRIPTS
    assert scripts and all((markdown.ROOT / "benchmarks" / name).exists() for name in scripts)
    modules = re.findall(r"`(layers/\w+\.py)`", text)
    assert modules and all((markdown.ROOT / "vit_jax/models" / name).exists() for name in modules)
