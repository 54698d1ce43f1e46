"""Time and memory of Swin as images grow, beside a plain ViT of the same width.

    python benchmarks/swin_resolution.py

Swin-T and ViT-S/16: both are 384 wide where their tokens lie 16 pixels apart, which is where Swin
has most of its blocks. A window attends to itself alone, so the cost of Swin is that of its tokens
(Liu et al. 2021, "Swin Transformer", section 3.2, equations 1 and 2); in a plain ViT every token
attends to every other.

One image is classified, in float32, or `--dtype`. Attention is XLA's in both, which writes all
scores down (`--backend` chooses another). Seconds are the median over the rounds, in which the
models alternate; memory is what XLA's compiled program needs beside parameters and image
(`memory_analysis().temp_size_in_bytes`). "per token" is relative to 224 pixels.
"""

import argparse
import pathlib
from typing import Any

import jax
from compiled import Compiled, alternate
from report import write

import vit_jax

RESULTS = pathlib.Path(__file__).parent / "results/swin_resolution.json"
MODELS = ("swin_tiny_patch4_window7_224", "vit_small_patch16_224")
SIZES = (224, 448, 896, 1792)


def compiled(name: str, size: int, dtype: str, backend: str | None) -> tuple[Compiled, float]:
    """A model's forward pass at one size, and its GFLOPs."""
    options = {} if backend is None else {"attn_backend": backend}
    module = vit_jax.create_model(name, img_size=size, dtype=dtype, **options)
    image = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    params = jax.eval_shape(module.init, jax.random.key(0), image)
    return Compiled(module.apply, params, image), module.flops() / 1e9


def measure(sizes: list[int], dtype: str, backend: str | None, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table, models by sizes."""
    rows = []
    for size in sizes:  # one size at a time: the largest need most of the memory
        both = [compiled(name, size, dtype, backend) for name in MODELS]
        alternate([program for program, _ in both], rounds)
        for name, (program, gflops) in zip(MODELS, both):
            row = {"model": name, "size": size, **program.summary(), "gflops": gflops}
            rows.append(row)
            print(line(row, rows), flush=True)
    return rows


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """A row for people."""
    first = next(x for x in rows if x["model"] == row["model"])
    tokens = (row["size"] / first["size"]) ** 2
    return (
        f"{row['model']:30}{row['size']:6}{row['gflops']:10.1f} GFLOPs{row['seconds']:9.3f} s"
        f"{row['temporary_bytes'] / 2**20:9.0f} MiB   per token: time x"
        f"{row['seconds'] / first['seconds'] / tokens:.2f}, memory x"
        f"{row['temporary_bytes'] / first['temporary_bytes'] / tokens:.2f}"
    )


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", help="of attention, see vit_jax/models/layers/attention.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    what = "one image through Swin and a plain ViT of the same width"
    results = measure(args.sizes, args.dtype, args.backend, args.rounds)
    write(args.output, what, results, dtype=args.dtype, rounds=args.rounds)


if __name__ == "__main__":
    main()
