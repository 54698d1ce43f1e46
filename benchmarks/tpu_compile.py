"""Train steps of large models, compiled for TPUs that are not there: memory, traffic, roofline.

    pip install "vit_jax[tpu]" && python benchmarks/tpu_compile.py

Each row is `vit-jax compile` in a process of its own, whose compiler is libtpu's. A row is written
when it is done, and a second run makes those that are missing; `--only TEXT` makes the rows whose
name has the text, anew. `--markdown` prints the table of what there is.

Models compute in bfloat16 on parameters in float32, with AdamW, blocks scanned. Mixup is off:
when the first rows were made its shares took as long to compile as the model. The meshes are one
sensible choice each, not the result of a search.
"""

from collections.abc import Iterator

import compile_rows

RESULTS = compile_rows.ROOT / "benchmarks/results/tpu_compile.json"
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
TABLE = (
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
)


def jobs() -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """The name of each row, what `vit-jax compile` is given for it, and nothing else to keep."""
    for model, topology, mesh, batch, remat in TABLE:
        recipe, *changes = MODELS[model]
        changes += [f"data.batch_size={batch}", *filter(None, [remat])]
        where = ["--topology", topology, "--mesh", mesh]
        overrides = [f"--config.{change}" for change in changes]
        arguments = ["--config", f"configs/{recipe}.py", *where, *overrides]
        yield f"{model} on {topology}, {mesh}", arguments, {}


def main() -> None:
    """Makes the rows that are missing, and prints all."""
    args = compile_rows.options(__doc__.splitlines()[0])
    if args.markdown:
        rows = compile_rows.read(RESULTS)
    else:
        what = "train steps compiled for TPUs that are not there"
        rows = compile_rows.make(RESULTS, what, jobs(), args.only)
    print(compile_rows.HEADER)
    order = [name for name, _, _ in jobs()]
    for name in sorted(order, key=lambda name: list(MODELS).index(name.split(" on ")[0])):
        if name in rows:
            print(compile_rows.line(name, rows[name]))


if __name__ == "__main__":
    main()
