"""Recipes that name a TPU: each was compiled for it as it stands, and fits.

Nothing is compiled here: benchmarks/tpu_recipes.py does that, and its results say of which settings
of each recipe they are.
"""

import importlib
import math
import re

import pytest

from tests.docs import markdown
from vit_jax.training import tpu_slices
from vit_jax.training.config import load_config

CONFIGS = markdown.ROOT / "configs"
NAMED = {
    path.stem: config.tpu_topology
    for path in sorted(CONFIGS.glob("*.py"))
    if (config := load_config(path)).tpu_topology is not None
}


@pytest.fixture(scope="module")
def compile_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(markdown.ROOT / "benchmarks"))
        yield importlib.import_module("compile_rows")


@pytest.fixture(scope="module")
def table(compile_rows):
    return importlib.import_module("tpu_recipes").TABLE


@pytest.fixture(scope="module")
def rows(compile_rows, table):
    return compile_rows.read(table.results)


def test_the_page_says_which_and_small_ones_name_none():
    large, small = markdown.text("docs/recipes.md").split("## Small, for a CPU")
    recipes = re.findall(r"`(\w+)\.py`", large)
    said = dict(re.findall(r"`(\w+)\.py` \| (\w+:[\dx]+|-) \|", large))
    assert said == {name: NAMED.get(name, "-") for name in recipes}
    assert not set(NAMED) & set(re.findall(r"^\| `(\w+)\.py`", small, re.M))


def test_sizes_are_usual_ones():
    for name, topology in NAMED.items():
        kind, _, sides = topology.partition(":")
        assert sides in tpu_slices.TOPOLOGIES[kind], name


@pytest.mark.parametrize("name", NAMED)
def test_it_was_compiled_as_it_stands_and_fits(compile_rows, table, rows, name):
    config, row = load_config(CONFIGS / f"{name}.py"), rows.get(name)
    [job] = [job for job in table.jobs if job.name == name]
    assert compile_rows.why_stale(job, row) is None, "run benchmarks/tpu_recipes.py"
    assert row["topology"] == config.tpu_topology and row["fits"]
    assert row["needed"] <= row["capacity"]
    assert (row["model"], row["batch"]) == (config.model.name, config.data.batch_size)
    chips = math.prod(tpu_slices.parse(config.tpu_topology).sides)
    assert math.prod(row["mesh"].values()) == row["devices"] == chips


def test_there_are_no_rows_of_other_recipes(rows):
    assert set(rows) == set(NAMED)


@pytest.mark.parametrize(
    "override, shapes",
    [
        ("data.batch_size=2048", True),
        ("data.train_transform=resize", True),
        ("model.remat=full", True),
        ("objective.mixup_alpha=0.5", True),
        ("optim.name=lamb", True),
        ("mesh.fsdp=4", True),
        ("tpu_topology=v5e:8x8", True),
        ("ema_decay=0.5", True),
        ("log_every_steps=7", False),
        ("checkpoint.keep_last=7", False),
        ("data.workers=7", False),
    ],
)
def test_which_changes_ask_for_another_compilation(compile_rows, override, shapes):
    path = CONFIGS / "vit_b16_i1k.py"
    before, after = (compile_rows.settings(load_config(path, x)) for x in ([], [override]))
    assert (before != after) == shapes
