"""Every recipe that names a TPU (`config.tpu_topology`), compiled for it as it stands.

    pip install "vit_jax[tpu]" && python benchmarks/tpu_recipes.py

Makes the rows that are missing or stale (see `compile_rows`), the cheapest first, and the table in
docs/compile.md; `--only TEXT` those whose name has the text, `--anew` also those that are not
stale, `--stale` says which they are, `--markdown` writes the table only.

What a recipe does not say: a distilled model's teacher is taken to be a ResNet-101 of BiT, and
one's own images to be of 100 classes.
"""

import sys
from collections.abc import Iterator

import compile_rows
from compile_rows import Job, Row, Table
from ml_collections import ConfigDict

from vit_jax.training.config import load_config

CHANGES = {"deit_b16_distilled_i1k": ("objective.teacher_model=resnetv2_101x1_bit",)}
OPTIONS = {"lora_vit_b16": ("--num-classes", "100")}


def recipes() -> Iterator[tuple[str, ConfigDict]]:
    """The recipes that name a TPU, by name."""
    for path in sorted((compile_rows.ROOT / "configs").glob("*.py")):
        config = load_config(path)
        if config.tpu_topology is not None:
            yield path.stem, config


def lines(rows: dict[str, Row]) -> str:
    """The table in markdown."""
    named = []
    for name in sorted(rows):
        axes = rows[name].get("mesh", {}).items()
        mesh = ",".join(f"{axis}={n}" for axis, n in axes if n > 1)
        named.append((f"{name} on {rows[name].get('topology')}, {mesh}", rows[name]))
    return compile_rows.lines(named)


TABLE = Table(
    compile_rows.ROOT / "benchmarks/results/tpu_recipes.json",
    "recipes compiled for the TPUs that they name, which are not there",
    [Job(name, name, CHANGES.get(name, ()), OPTIONS.get(name, ())) for name, _ in recipes()],
    {"recipes": lines},
)

if __name__ == "__main__":
    sys.exit(compile_rows.main(__doc__.splitlines()[0], TABLE))
