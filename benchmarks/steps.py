"""Forward passes and train steps, side by side with timm, Transformers and JAX implementations.

    python benchmarks/steps.py --checkout big_vision=DIR --checkout deit3-jax=DIR
    python benchmarks/steps.py --work train-ti mae-s --rounds 9

Each contender is a process of its own; all are started, and then take turns of about a second, so
that what the machine does meanwhile meets all of them alike. A figure is the median over the
rounds. A train step is a whole update: gradient of every parameter, and AdamW. Ours is the step of
`vit-jax train`, with the normalisation of its bytes, its schedule and its metrics; the others get
normalised images. JAX implementations that pip does not install run from a checkout whose folder is
given; those of no given folder are left out, and the table says so.

On a CPU there are two comparisons: "default", each as its users run it (`vit-jax` starts itself
with huge pages for malloc, the others do not), and "huge pages", where all have them.

Results are written after each piece of work, beside those that the file has of the same machine,
versions, code and contenders: after a run that was stopped, `--work` makes the rest.

Utilisation is the share of the best matrix product that was measured in the same rounds, of XLA's
and PyTorch's, by the operations of the model (`model.flops()`, three times that for an update).
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from contenders import CEILINGS, CHECKOUTS, CONTENDERS, Work, able
from report import earlier, revision, write
from rounds import Running, take_turns

RESULTS = pathlib.Path(__file__).parent / "results"
GROUPS = ("ours", "JAX", "PyTorch")
LIBRARIES = ("jax", "jaxlib", "flax", "torch", "timm", "transformers")
WORKS = {
    "forward-ti": Work("forward", "vit_tiny_patch16_224", 16),
    "forward-s": Work("forward", "vit_small_patch16_224", 8),
    "forward-b": Work("forward", "vit_base_patch16_224", 8),
    "train-ti": Work("train", "vit_tiny_patch16_224", 16),
    "train-s": Work("train", "vit_small_patch16_224", 8),
    "mae-s": Work("mae", "mae_vit_small_patch16", 8),
    "swin-forward": Work("forward", "swin_tiny_patch4_window7_224", 8),
    "swin-train": Work("train", "swin_tiny_patch4_window7_224", 8),
}
GPU_WORKS = {
    "forward-b": Work("forward", "vit_base_patch16_224", 256, "bfloat16"),
    "forward-l": Work("forward", "vit_large_patch16_224", 128, "bfloat16"),
    "train-b": Work("train", "vit_base_patch16_224", 256, "bfloat16"),
    "train-l": Work("train", "vit_large_patch16_224", 128, "bfloat16"),
    "train-h": Work("train", "vit_huge_patch14_224", 64, "bfloat16"),
    "mae-l": Work("mae", "mae_vit_large_patch16", 128, "bfloat16"),
    "swin-t": Work("train", "swin_tiny_patch4_window7_224", 256, "bfloat16"),
    "swin-b": Work("train", "swin_base_patch4_window7_224", 128, "bfloat16"),
}
COMPARISONS = {
    "default": {"ours": True, "JAX": False, "PyTorch": False},
    "huge pages": {"ours": True, "JAX": True, "PyTorch": True},
}


def flops_a_step(work: Work) -> float:
    """Operations of the model in one step, a multiplication and an addition being two."""
    from contenders import ours

    return ours.make_model(work).flops() * work.batch * (1 if work.kind == "forward" else 3)


def row(one: Running, work: Work, flops: float, ceiling: float) -> dict[str, Any]:
    """What is reported of a contender."""
    found = one.summary()
    seconds = found["seconds"]
    return {
        "group": one.contender.group,
        **found,
        "images_per_second": work.batch / seconds,
        "utilisation": flops / seconds / ceiling,
        "seconds_to_first_step": one.ready,
    }


def measure(
    work: Work,
    names: list[str],
    checkouts: dict[str, pathlib.Path],
    rounds: int,
    huge_pages: dict[str, bool],
    matrix: int,
) -> dict[str, Any]:
    """The results of a piece of work: rows by contender, the ceiling, who failed or is absent."""
    there, missing = (
        [c for c in some if not names or c.name in names] for some in able(work, checkouts)
    )
    square = Work("matmul", "", matrix, work.dtype)
    products, _ = take_turns(CEILINGS, square, {}, rounds, huge_pages)
    rates = {one.contender.name: 2 * matrix**3 / min(one.seconds) for one in products}
    ceiling = max(rates.values())
    running, failed = take_turns(there, work, checkouts, rounds, huge_pages)
    flops = flops_a_step(work)
    return {
        "work": vars(work),
        "flops": flops,
        "ceiling_flops_per_second": ceiling,
        "matrix_product_flops_per_second": rates,
        "contenders": {one.contender.name: row(one, work, flops, ceiling) for one in running},
        "failed": failed,
        "not_given": [c.name for c in missing],
    }


def best(result: dict[str, Any], group: str) -> tuple[str, dict[str, Any]] | None:
    """The fastest contender of a group, by name; None: there is none."""
    own = [(name, one) for name, one in result["contenders"].items() if one["group"] == group]
    return min(own, key=lambda named: named[1]["seconds"]) if own else None


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """How many times faster our best is than the best of JAX and of PyTorch."""
    seconds = {group: found[1]["seconds"] for group in GROUPS if (found := best(result, group))}
    ours = seconds.pop("ours", None)
    return {} if ours is None else {group: theirs / ours for group, theirs in seconds.items()}


def table(name: str, comparison: str, result: dict[str, Any]) -> str:
    """A piece of work for people."""
    work = Work(**result["work"])
    lines = [f"{name} ({comparison}): {work.model}, batch {work.batch}, {work.dtype}"]
    for contender, one in result["contenders"].items():
        spread = (one["highest"] - one["lowest"]) / one["seconds"]
        lines.append(
            f"  {contender:26}{one['images_per_second']:9.2f} images/s{1e3 * one['seconds']:10.1f} "
            f"ms{one['utilisation']:7.0%} of a matrix product, spread {spread:.0%}"
        )
    lines += [f"  {contender:26} failed: {why}" for contender, why in result["failed"].items()]
    lines += [f"  {contender:26} left out: no --checkout" for contender in result["not_given"]]
    lines += [
        f"  {product:26}{rate / 1e9:9,.0f} GFLOP/s at best"
        for product, rate in result["matrix_product_flops_per_second"].items()
    ]
    lines += [f"  {ratio:.2f} times the best of {group}" for group, ratio in ratios(result).items()]
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """The best of each group, of all pieces of work, for a page."""
    who = "vit_jax | best of JAX | best of PyTorch | times JAX | times PyTorch"
    lines = [f"| work | comparison | {who} |", "|" + "---|" * 7]
    for name, comparisons in results.items():
        for comparison, result in comparisons.items():
            cells = [f"{name}, batch {result['work']['batch']}", comparison]
            for group in GROUPS:
                found = best(result, group)
                cells.append("-" if found is None else _cell(*found, group))
            times = ratios(result)
            cells += [f"{times[x]:.2f}" if x in times else "-" for x in ("JAX", "PyTorch")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, one: dict[str, Any], group: str) -> str:
    """A contender's time, its share of a matrix product's rate, and who it is."""
    form = name.partition(", ")[2] or "unrolled" if group == "ours" else name
    return f"{1e3 * one['seconds']:,.0f} ms, {one['utilisation']:.0%} ({form})"


def checkout(text: str) -> tuple[str, pathlib.Path]:
    """NAME=DIR of the command line."""
    name, _, folder = text.partition("=")
    if name not in CHECKOUTS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CHECKOUTS)}")
    if not pathlib.Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{folder!r} is no folder")
    return name, pathlib.Path(folder)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="the pieces of work meant for a GPU")
    parser.add_argument("--work", nargs="+", default=[], metavar="NAME", help="some of them alone")
    parser.add_argument("--contenders", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--checkout", type=checkout, action="append", default=[])
    parser.add_argument("--comparisons", nargs="+", choices=COMPARISONS, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="images, in the place of each one's own")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--markdown", action="store_true", help="print a table of what there is")
    arguments = parser.parse_args()
    works = GPU_WORKS if arguments.gpu else WORKS
    if unknown := set(arguments.work) - set(works):
        parser.error(f"no work {sorted(unknown)}: there are {', '.join(works)}")
    if unknown := set(arguments.contenders) - {c.name for c in CONTENDERS}:
        parser.error(f"no contender {sorted(unknown)}")
    arguments.work = {name: works[name] for name in arguments.work or works}
    arguments.output = arguments.output or RESULTS / f"steps{'_gpu' * arguments.gpu}.json"
    return arguments


def main() -> None:
    """Measures, prints tables and writes the results."""
    arguments = parsed()
    if arguments.markdown:
        print(markdown(json.loads(arguments.output.read_text())["results"]))
        return
    comparisons = arguments.comparisons or (["default"] if arguments.gpu else list(COMPARISONS))
    # Contenders, all alive, share the memory of a GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    about = dict(
        libraries=LIBRARIES,
        rounds=arguments.rounds,
        revision=revision(),
        contenders=sorted(arguments.contenders),
        checkouts=sorted(name for name, _ in arguments.checkout),
    )
    results = earlier(arguments.output, **about)
    for name, work in arguments.work.items():
        if arguments.batch:
            work = Work(**{**vars(work), "batch": arguments.batch})
        for comparison in comparisons:
            print(f"{name} ({comparison})", file=sys.stderr)
            result = measure(
                work,
                arguments.contenders,
                dict(arguments.checkout),
                arguments.rounds,
                COMPARISONS[comparison],
                matrix=8192 if arguments.gpu else 2048,
            )
            result["times_the_best"] = ratios(result)
            results.setdefault(name, {})[comparison] = result
            print(table(name, comparison, result), flush=True)
            write(arguments.output, "forward passes and updates, side by side", results, **about)


if __name__ == "__main__":
    main()
