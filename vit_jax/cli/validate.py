"""`vit-jax validate`: compares a model with an independent PyTorch implementation."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.convert import add_source, source_options

DIFFERENT = 1


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "validate",
        help="compare a model with an independent PyTorch implementation",
        description="Loads the weights here and in PyTorch, feeds both the same images, and "
        "compares the hidden states at the embedding, after each block and at the output.",
        epilog=f"Exit code {DIFFERENT}: outside the limits; the first place where the two part is "
        "named.",
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument(
        "--against",
        choices=["transformers", "timm"],
        help="default: the one that reads the source by itself, else the first that can hold it",
    )
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument(
        "--gradients", action="store_true", help="compare the gradient of every parameter too"
    )
    parser.add_argument("--photo", metavar="FILE", help="compare on this picture as well")
    parser.add_argument("--json", metavar="FILE", help="write the report there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.convert.validate import validate

    report = validate(
        against=arguments.against,
        dtype=arguments.dtype,
        gradients=arguments.gradients,
        photo=arguments.photo,
        json_file=arguments.json,
        **source_options(arguments),
    )
    print(report.table())
    if report.ok:
        return 0
    print(f"vit-jax: the two part at {report.first_difference}", file=sys.stderr)
    return DIFFERENT
