"""`vit-jax features`: what a model sees in pictures, as vectors."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.predict import add_images, add_model, model_options


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "features",
        help="features of pictures, into a file",
        description="Writes features of pictures, their paths and, where they lie in folders of "
        "classes, their labels.",
        allow_abbrev=False,
    )
    add_model(parser)
    add_images(parser)
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="a new file, .npz or .parquet"
    )
    parser.add_argument(
        "--which",
        default="pooled",
        choices=("pooled", "cls", "mean", "tokens"),
        help="what the head sees, the class token, the mean of the patches' tokens, or all tokens "
        "(default: pooled)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.inference.features import extract_features

    extract_features(
        arguments.source,
        arguments.images,
        arguments.which,
        arguments.batch_size,
        output=arguments.output,
        skip_unreadable=arguments.skip_unreadable,
        report=common.to_stderr,
        **model_options(arguments),
    )
    return 0
