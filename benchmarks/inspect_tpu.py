"""What `vit-jax inspect` says a step holds, beside what the compiler of TPUs has laid out.

    python benchmarks/inspect_tpu.py

`--markdown` prints the table of what there is.
For each recipe in results/tpu_recipes.json (see tpu_recipes.py): state and the rest of a step, on a
device of the mesh that it was compiled for. The compiler's temporaries are all that a step holds
beside its arguments, since the next state takes the place of the last. Nothing is compiled again.
"""

import argparse
import json
import os
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import compile_rows
import tpu_recipes

import vit_jax
from vit_jax.measure import machine

RESULTS = compile_rows.ROOT / "benchmarks/results/inspect_tpu.json"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "vit_jax")
# The same that the compiled step was given.
OVERRIDES = {
    "deit_b16_distilled_i1k": ["objective.teacher_model=resnetv2_101x1_bit"],
    "lora_vit_b16": ["model.num_classes=100"],
}
GIB = 2**30


def table(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    """The lines of the table in markdown."""
    yield "| recipe | images a chip | state | compiler | rest of a step | compiler | ratio |"
    yield "|" + "---|" * 7
    for name, row in rows.items():
        sizes = ("state", "compiled_state", "peak", "compiled_temporaries")
        cells = " | ".join(f"{row[key] / GIB:.2f} GiB" for key in sizes)
        yield f"| {name} | {row['rows']:,} | {cells} | {row['ratio']:.2f} |"


def make() -> dict[str, dict[str, float]]:
    """Makes all rows and writes them."""
    rows = {}
    for name, compiled in compile_rows.read(tpu_recipes.TABLE.results).items():
        print(f"{name} ...", flush=True)
        source, overrides = compile_rows.ROOT / f"configs/{name}.py", OVERRIDES.get(name, ())
        found = vit_jax.inspect_model(source, mesh=compiled["mesh"], overrides=overrides)
        kind = compiled["topology"].partition(":")[0]
        fit = next(fit for fit in found.fits if fit.chip == f"TPU {kind}")
        peak = found.fused_peak if fit.fused else found.peak
        rows[name] = {
            "rows": found.rows,
            "state": found.state.total,
            "compiled_state": compiled["state_bytes"],
            "peak": peak,
            "compiled_temporaries": compiled["memory"]["temporaries"],
            "ratio": round(peak / compiled["memory"]["temporaries"], 3),
        }
    content = {"what": __doc__.splitlines()[0], "machine": machine.describe(LIBRARIES)}
    RESULTS.write_text(json.dumps(content | {"rows": rows}, indent=2) + "\n", encoding="utf-8")
    return rows


def main() -> None:
    """Prints the table, of rows that are made or with `--markdown` of those there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print what there is")
    markdown = parser.parse_args().markdown
    print("\n".join(table(compile_rows.read(RESULTS) if markdown else make())))


if __name__ == "__main__":
    main()
