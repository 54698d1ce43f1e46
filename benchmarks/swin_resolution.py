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
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import machine
import numpy as np

import vit_jax

RESULTS = pathlib.Path(__file__).parent / "results/swin_resolution.json"
MODELS = ("swin_tiny_patch4_window7_224", "vit_small_patch16_224")
SIZES = (224, 448, 896, 1792)


class Compiled:
    """A model's forward pass at one size, and what was measured of it."""

    def __init__(self, name: str, size: int, dtype: str, backend: str | None):
        options = {} if backend is None else {"attn_backend": backend}
        module = vit_jax.create_model(name, img_size=size, dtype=dtype, **options)
        image = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
        params = jax.eval_shape(module.init, jax.random.key(0), image)
        rng = np.random.default_rng(0)
        self.arguments = jax.device_put(
            jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype("float32"), (params, image))
        )
        self.function = jax.jit(module.apply).lower(*self.arguments).compile()
        self.name, self.size, self.flops = name, size, module.flops()
        self.temporary = self.function.memory_analysis().temp_size_in_bytes
        self.seconds: list[float] = []

    def run(self) -> None:
        """Measures once."""
        start = time.perf_counter()
        jax.block_until_ready(self.function(*self.arguments))
        self.seconds.append(time.perf_counter() - start)


def measure(sizes: list[int], dtype: str, backend: str | None, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table, models by sizes."""
    rows = []
    for size in sizes:  # one size at a time: the largest need most of the memory
        both = [Compiled(name, size, dtype, backend) for name in MODELS]
        for compiled in both:
            compiled.run()  # warm
            compiled.seconds.clear()
        for _ in range(rounds):
            for compiled in both:
                compiled.run()
        for compiled in both:
            row = {
                "model": compiled.name,
                "size": size,
                "seconds": statistics.median(compiled.seconds),
                "lowest": min(compiled.seconds),
                "highest": max(compiled.seconds),
                "temporary_bytes": compiled.temporary,
                "gflops": compiled.flops / 1e9,
            }
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
    report = {
        "what": "one image through Swin and a plain ViT of the same width",
        "dtype": args.dtype,
        "rounds": args.rounds,
        "machine": machine.describe(["jax", "jaxlib", "flax"]) | machine.describe_devices(),
        "results": measure(args.sizes, args.dtype, args.backend, args.rounds),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
