"""`vit-jax confusion`: which classes a model takes for which."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.labelled import add_labelled, labelled_options


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "confusion",
        help="which classes a model takes for which, as numbers and as a picture",
        description="Lets any model classify labelled pictures, and prints its accuracy and its "
        "most frequent mistakes; --json has the whole matrix, recall and precision.",
        allow_abbrev=False,
    )
    add_labelled(parser)
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the matrix: .png, .svg or .pdf, replaced"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.evaluation.confusion import confusion
    from vit_jax.evaluation.show import show

    show(confusion(**labelled_options(arguments), picture=arguments.picture), arguments.json)
    return 0
