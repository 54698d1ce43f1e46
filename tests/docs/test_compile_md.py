"""docs/compile.md: its options are the command's, its table is that of the results."""

import dataclasses
import importlib
import re
import types

import pytest

from tests.docs import markdown
from vit_jax.ahead.roofline import roofline
from vit_jax.training import hardware
from vit_jax.training.tpu_slices import TOPOLOGIES

PAGE = "docs/compile.md"


def test_options_are_those_of_the_command(call):
    help_text = call("compile", "--help")[1]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", markdown.text(PAGE))) - {
        *("--only", "--anew", "--stale", "--markdown"),  # of the benchmarks
    }
    offered = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_text)) - {"--help"}
    assert named == offered


def test_topologies_are_those_that_there_are():
    text = markdown.text(PAGE)
    for kind in TOPOLOGIES:
        assert re.search(rf"\b{kind}\b", text), kind
    for kind, shape in re.findall(r"\b(v\d\w?|tpu7x):(\d+(?:x\d+)+)", text):
        assert shape in TOPOLOGIES[kind]


@pytest.fixture(scope="module")
def compile_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(markdown.ROOT / "benchmarks"))
        yield importlib.import_module("compile_rows")


@pytest.fixture(scope="module", params=["tpu_compile", "tpu_recipes"])
def table(request, compile_rows):
    return importlib.import_module(request.param).TABLE


def test_the_tables_are_those_of_the_results(compile_rows, table):
    """As the command writes them, with `--markdown`."""
    text = markdown.text(PAGE)
    assert compile_rows.page(text, table, compile_rows.read(table.results)) == text


def test_no_row_is_stale(compile_rows, table):
    """Of those that were made: `benchmarks/tpu_compile.py` and `tpu_recipes.py` make them anew."""
    rows = compile_rows.read(table.results)
    made = [job for job in table.jobs if job.name in rows]
    reasons = {job.name: compile_rows.why_stale(job, rows[job.name]) for job in made}
    assert {name: reason for name, reason in reasons.items() if reason is not None} == {}
    assert set(rows) <= {job.name for job in table.jobs}


def test_least_times_are_of_the_rates_that_are_published_now(compile_rows, table):
    for name, row in compile_rows.read(table.results).items():
        if row.get("fits"):
            chip = hardware.chip(types.SimpleNamespace(device_kind=row["device_kind"]))
            numbers = (row[key] for key in ("flops", "bytes_accessed", "sent", "model_flops"))
            found = dataclasses.asdict(roofline(chip, *numbers))
            assert found == {key: row["roofline"][key] for key in found}, name
