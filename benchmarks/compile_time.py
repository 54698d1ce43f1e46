"""Seconds to trace and compile an update of ViT-L/16, and the time of the step that comes of it.

    python benchmarks/compile_time.py --checkout big_vision=DIR

Ours unrolled and scanned beside JAX implementations from checkouts whose folder is given. Each is a
process of its own; they take turns, each compiling anew with every cache of JAX emptied, and then
take turns with steps on a batch that is small enough for a CPU. A figure is the median over the
rounds. No persistent compilation cache is used. big_vision's scanned form recomputes each block in
the backward pass, as its own default is.
"""

import argparse
import pathlib
from typing import Any

from contenders import Work, able
from report import write
from rounds import take_turns
from steps import checkout

RESULTS = pathlib.Path(__file__).parent / "results/compile_time.json"
SAME = {"ours": True, "JAX": True}  # huge pages for all


def measure(
    kind: str, args: argparse.Namespace, rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Summaries by contender, and who failed on what."""
    work = Work(kind, args.model, args.batch, args.dtype)
    folders = dict(args.checkout)
    there = [c for c in able(work, folders)[0] if c.group in SAME]
    running, failed = take_turns(there, work, folders, rounds, SAME)
    return {one.contender.name: one.summary() for one in running}, failed


def table(compiling: dict[str, Any], stepping: dict[str, Any]) -> str:
    """For people; shares are of the contender named in the heading."""
    first = next(iter(compiling))
    fastest = min((x["seconds"] for x in stepping.values()), default=None)
    lines = [f"{'':24}{'trace + compile':>16}{'of ' + first:>12}{'step':>10}{'of fastest':>12}"]
    for name, one in compiling.items():
        share = one["seconds"] / compiling[first]["seconds"]
        line = f"{name:24}{one['seconds']:14.2f} s{share:12.2f}"
        if name in stepping:
            step = stepping[name]["seconds"]
            line += f"{step:8.2f} s{step / fastest:12.2f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_large_patch16_224")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--checkout", type=checkout, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5, help="of compilations")
    parser.add_argument("--step-rounds", type=int, default=5, help="of steps; 0: none")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    compiling, failed = measure("compile", args, args.rounds)
    stepping: dict[str, dict[str, float]] = {}
    if args.step_rounds:
        stepping, more = measure("train", args, args.step_rounds)
        failed |= more
    print(table(compiling, stepping))
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    write(
        args.output,
        f"an update of {args.model}, batch {args.batch}, {args.dtype}",
        {"compile": compiling, "step": stepping, "failed": failed},
        rounds=args.rounds,
        step_rounds=args.step_rounds,
    )


if __name__ == "__main__":
    main()
