"""Every recipe that names a TPU (`config.tpu_topology`), compiled for it as it stands.

    pip install "vit_jax[tpu]" && python benchmarks/tpu_recipes.py

A row is written when it is done, with the settings of the recipe that shape the program. A second
run makes the rows that are missing or whose recipe has changed since; `--only TEXT` makes those
whose name has the text, anew. `--markdown` prints the table of what there is.

What a recipe does not say: a distilled model's teacher is taken to be a ResNet-101 of BiT, and
one's own images to be of 100 classes.
"""

import json
from collections.abc import Iterator
from typing import Any

import compile_rows
from ml_collections import ConfigDict

from vit_jax.training.config import base_config, load_config
from vit_jax.training.overrides import flat_keys, value_of

RECIPES = compile_rows.ROOT / "configs"
RESULTS = compile_rows.ROOT / "benchmarks/results/tpu_recipes.json"
GIVEN = {
    "deit_b16_distilled_i1k": ["--config.objective.teacher_model=resnetv2_101x1_bit"],
    "lora_vit_b16": ["--num-classes", "100"],
}
# Keys, and sections with all their keys, that shape the program or the data that it is given.
SHAPING = (
    *("model", "objective", "optim", "lora", "schedule.name", "ema_decay", "accumulate_steps"),
    *("mesh", "sharding_rules", "tpu_topology"),
    *("data.source", "data.batch_size", "data.train_transform"),
)


def recipes() -> Iterator[tuple[str, ConfigDict]]:
    """The recipes that name a TPU, by name."""
    for path in sorted(RECIPES.glob("*.py")):
        config = load_config(path)
        if config.tpu_topology is not None:
            yield path.stem, config


def settings(config: ConfigDict) -> dict[str, Any]:
    """What shapes a recipe's program and is not the default, as JSON keeps it."""
    base = base_config()
    defaults = {key: value_of(base, key) for key in flat_keys(base)}
    found = {
        key: value_of(config, key)
        for key in flat_keys(config)
        if any(f"{key}.".startswith(f"{name}.") for name in SHAPING)
    }
    differing = {
        key: value for key, value in found.items() if key not in defaults or defaults[key] != value
    }
    return json.loads(json.dumps(differing))


def jobs() -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """The name of each recipe, what `vit-jax compile` is given for it, and its settings."""
    for name, config in recipes():
        arguments = ["--config", f"configs/{name}.py", *GIVEN.get(name, [])]
        yield name, arguments, {"settings": settings(config)}


def table(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The lines of the table in markdown."""
    yield compile_rows.HEADER
    for name, row in rows.items():
        mesh = ",".join(f"{axis}={n}" for axis, n in row.get("mesh", {}).items() if n > 1)
        yield compile_rows.line(f"{name} on {row['settings']['tpu_topology']}, {mesh}", row)


def main() -> None:
    """Makes the rows that are missing or stale, and prints all."""
    args = compile_rows.options(__doc__.splitlines()[0])
    if args.markdown:
        rows = compile_rows.read(RESULTS)
    else:
        now = {name: settings(config) for name, config in recipes()}
        what = "recipes compiled for the TPUs that they name, which are not there"
        rows = compile_rows.make(
            RESULTS, what, jobs(), args.only, lambda name, row: row["settings"] != now[name]
        )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
