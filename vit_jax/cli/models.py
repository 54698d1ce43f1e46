"""`vit-jax models`: the models that have names."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "models",
        help="list models with parameters, GFLOPs, resolution and weights",
        description="Lists the models that have names. GFLOPs are those of one image's forward "
        "pass, 2 operations for a multiply-add: twice the GMACs of timm's tables. Of a single "
        "model the ids of weights are listed line by line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="of names, in quotes, such as 'vit_base*' (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.inspect.catalogue import model_table, show

    show(model_table(arguments.pattern), arguments.json)
    return 0
