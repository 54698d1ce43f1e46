"""docs/inspect.md: its options are the commands', its sums come out, its table is the results'."""

import re
import subprocess
import sys
from pathlib import Path

from tests.docs import markdown
from vit_jax import models
from vit_jax.inspect.activations import block_keeps
from vit_jax.inspect.flops import flops_by_hand
from vit_jax.inspect.parameters import parameters_by_hand

PAGE = "docs/inspect.md"
ROOT = Path(__file__).parents[2]
VIT_B = "vit_base_patch16_224"


def test_options_are_those_of_the_commands(call):
    options = r"(?<![\w-])--[a-z][a-z-]*"
    offered = {"--config"}
    for command in ("models", "inspect"):
        offered |= set(re.findall(options, call(command, "--help")[1])) - {"--help"}
    assert set(re.findall(options, markdown.text(PAGE))) == offered


def test_parameters_by_hand_are_on_the_page():
    found = parameters_by_hand(models.create_model(VIT_B))
    numbers = _cells("**Parameters.**", "**Operations**")
    blocks = [found.pop(part) for part in ("attention", "MLP", "norms in blocks")]
    for count in (*found.values(), *(x // 12 for x in blocks), sum(blocks)):
        assert f"{count:,}" in numbers, count
    assert f"{sum(found.values()) + sum(blocks):,}" == numbers[-1]


def test_operations_by_hand_are_on_the_page():
    found = flops_by_hand(models.create_model(VIT_B))
    numbers = _cells("**Operations**", "So at 224")
    for count in (*found.values(), sum(found.values())):
        assert f"{count / 1e9:.3f}" in numbers, count


def test_what_a_block_keeps_is_on_the_page():
    found = block_keeps(197, 768, 12, 3072, 4)
    numbers = _cells("**Activations.**", "12 blocks of")
    for count in (*found.values(), sum(found.values())):
        assert f"{count:,}" in numbers, count
    assert f"{128 * 12 * sum(found.values()) / 2**30:.1f} GiB" in markdown.text(PAGE)


def test_the_table_is_that_of_the_results():
    command = [sys.executable, "inspect_tpu.py", "--markdown"]
    printed = subprocess.run(
        command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() in markdown.text(PAGE)


def test_python_of_the_page_runs_on_small_settings():
    names: dict = {}
    for block in markdown.blocks(PAGE):
        if block.language == "python":
            small = block.text.replace("mesh=", 'overrides=["model.depth=1"], mesh=')
            exec(compile(small, f"{PAGE}:{block.line}", "exec"), names)
    assert names["found"].rows == 64


def _cells(start, end):
    """The cells of the tables between two sentences of the page."""
    text = markdown.text(PAGE)
    part = text[text.index(start) : text.index(end)]
    return [
        cell.strip()
        for line in part.splitlines()
        if line.startswith("|")
        for cell in line.strip("|").split("|")
        if cell.strip()
    ]
