"""Train steps of large models, compiled for TPUs that are not there: memory, traffic, roofline.

    pip install "vit_jax[tpu]" && python benchmarks/tpu_compile.py

Makes the rows that are missing or stale (see `compile_rows`), the cheapest first, and the parts of
docs/compile.md that they are in; `--only TEXT` those whose name has the text, `--anew` also those
that are not stale, `--stale` says which they are, `--markdown` writes the page only.

Models compute in bfloat16 on parameters in float32, with AdamW, blocks scanned. Mixup is off:
when the first rows were made its shares took as long to compile as the model. The meshes are one
sensible choice each, not the result of a search.
"""

import sys
from collections.abc import Iterator

import compile_rows
from compile_rows import Job, Row, Table

PLAIN = ("vit_b16_i1k", "objective.mixup_alpha=0.0")
FULL, DOTS = "model.remat=full", "model.remat=dots_with_no_batch_dims_saveable"


def plain(name: str) -> tuple[str, ...]:
    """The recipe of a plain Vision Transformer of another size."""
    return (*PLAIN, f"model.name={name}", "model.representation_size=None")


# Recipe and what differs from it.
MODELS = {
    "ViT-B/16": PLAIN,
    "ViT-L/16": plain("vit_large_patch16_224"),
    "ViT-H/14": plain("vit_huge_patch14_224"),
    "ViT-G/14": plain("vit_gigantic_patch14_224"),
    "ViT-22B/14": plain("vit_22b_patch14_224"),
    "MAE-H/14": ("mae_h14_pretrain",),
    "Swin-L": (
        "swin_b_i1k",
        *("objective.mixup_alpha=0.0", "objective.cutmix_alpha=0.0"),
        *("model.name=swin_large_patch4_window7_224", "model.scan=True"),
        "data.train_transform=inception_crop|flip",
    ),
}
# Model, topology, mesh, images a step, what a block keeps for its backward pass; first one row of
# each model and weak scaling (ViT-B/16 with 16 images a chip on 8, 64 and 256 chips).
STEPS = (
    ("ViT-B/16", "v5e:2x2", "data=4", 256, ""),
    ("ViT-22B/14", "v5p:4x4x4", "fsdp=64", 1024, FULL),
    ("ViT-L/16", "v5e:16x16", "data=64,fsdp=4", 4096, ""),
    ("ViT-G/14", "v5p:4x4x4", "data=4,fsdp=16", 2048, FULL),
    ("MAE-H/14", "v5e:16x16", "data=64,fsdp=4", 4096, ""),
    ("ViT-B/16", "v5e:2x4", "data=8", 128, ""),
    ("ViT-B/16", "v5e:8x8", "data=64", 1024, ""),
    ("ViT-B/16", "v5e:16x16", "data=256", 4096, ""),
    ("ViT-H/14", "v6e:16x16", "data=64,fsdp=4", 4096, ""),
    ("Swin-L", "v5e:16x16", "data=256", 1024, FULL),
    ("ViT-22B/14", "v5p:4x4x4", "data=4,fsdp=16", 1024, FULL),
    ("ViT-22B/14", "v5e:2x2", "fsdp=4", 4, FULL),
    ("ViT-22B/14", "v6e:16x16", "data=4,fsdp=64", 4096, FULL),
    ("ViT-G/14", "v5e:16x16", "data=16,fsdp=16", 4096, FULL),
    ("ViT-H/14", "v5e:16x16", "data=64,fsdp=4", 4096, DOTS),
    ("ViT-22B/14", "v5e:16x16", "data=4,fsdp=64", 2048, FULL),
    ("ViT-L/16", "v5e:2x2", "fsdp=4", 128, DOTS),
    ("ViT-H/14", "v5e:2x2", "fsdp=4", 64, FULL),
    ("ViT-G/14", "v5e:2x2", "fsdp=4", 32, FULL),
    ("MAE-H/14", "v5e:2x2", "fsdp=4", 64, ""),
    ("Swin-L", "v5e:2x2", "fsdp=4", 64, ""),
    ("ViT-G/14", "v6e:16x16", "data=16,fsdp=16", 4096, FULL),
    ("MAE-H/14", "v5p:4x4x4", "data=16,fsdp=4", 4096, ""),
    ("MAE-H/14", "v6e:16x16", "data=64,fsdp=4", 4096, ""),
    ("ViT-B/16", "v5p:4x4x4", "data=64", 4096, ""),
    ("ViT-B/16", "v6e:16x16", "data=256", 4096, ""),
    ("ViT-L/16", "v5p:4x4x4", "data=16,fsdp=4", 4096, ""),
    ("ViT-L/16", "v6e:16x16", "data=64,fsdp=4", 4096, ""),
    ("ViT-H/14", "v5p:4x4x4", "data=16,fsdp=4", 4096, DOTS),
    ("Swin-L", "v6e:16x16", "data=256", 1024, ""),
    ("Swin-L", "v5p:4x4x4", "data=64", 1024, ""),
    ("ViT-L/16", "2xv5e:8x8", "data=32,fsdp=4", 2048, ""),
    # 64 images a chip, to compare with other implementations.
    ("ViT-B/16", "v6e:2x2", "data=4", 256, ""),
    ("ViT-L/16", "v5e:2x2", "data=4", 256, ""),
    ("ViT-L/16", "v6e:2x2", "data=4", 256, ""),
    ("ViT-H/14", "v6e:2x2", "fsdp=4", 256, ""),
)


EXAMPLE = "ViT-L/16 on v5e:16x16, data=64,fsdp=4"  # whose report the page shows
SCALED = [f"ViT-B/16 on {where}" for where in ("v5e:2x4, data=8", "v5e:8x8, data=64")]
SCALED += ["ViT-B/16 on v5e:16x16, data=256"]


def jobs() -> Iterator[Job]:
    """One of each row."""
    for model, topology, mesh, batch, remat in STEPS:
        recipe, *changes = MODELS[model]
        axes = {"data": "1"} | dict(part.split("=") for part in mesh.split(","))
        changes += [f"data.batch_size={batch}", *filter(None, [remat])]
        changes += [f"mesh.{axis}={size}" for axis, size in axes.items()]
        name = f"{model} on {topology}, {mesh}"
        changes.append(f"tpu_topology={topology}")
        yield Job(name, recipe, tuple(changes), printed=name == EXAMPLE)


def lines(rows: dict[str, Row]) -> str:
    """The table in markdown, model by model."""
    names = sorted(
        (job.name for job in jobs()), key=lambda name: list(MODELS).index(name.split(" on ")[0])
    )
    return compile_rows.lines((name, rows[name]) for name in names if name in rows)


def scaling(rows: dict[str, Row]) -> str | None:
    """The table of the sums of gradients on more and more chips."""
    found = [
        "| chips | all-reduces a step | bytes that go into them | sent a chip |",
        "|---|---|---|---|",
    ]
    for name in SCALED:
        if "collectives" not in rows.get(name, {}):
            return None
        chips, sums = rows[name]["devices"], rows[name]["collectives"]["all-reduce"]
        given = sums["bytes"] / (2 * (chips - 1) / chips)
        sent = f"{given / 1e6:.1f} MB | {sums['bytes'] / 1e6:.1f} MB"
        found.append(f"| {chips} | {sums['count']} | {sent} |")
    return "\n".join(found)


def example(rows: dict[str, Row]) -> str | None:
    """What the command prints for one of the rows."""
    printed = rows.get(EXAMPLE, {}).get("printed")
    return None if printed is None else f"```\n{printed.strip()}\n```"


TABLE = Table(
    compile_rows.ROOT / "benchmarks/results/tpu_compile.json",
    "train steps compiled for TPUs that are not there",
    list(jobs()),
    {"large models": lines, "weak scaling": scaling, "example": example},
)

if __name__ == "__main__":
    sys.exit(compile_rows.main(__doc__.splitlines()[0], TABLE))
