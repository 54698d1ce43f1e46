"""`vit-jax visualize`: pictures of what a model does."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.predict import add_model, model_options
from vit_jax.errors import UserError

KINDS = ("attention", "rollout", "distance", "positions", "pca", "filters", "reconstruction", "all")


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "visualize",
        help="draw attention, features, positions and filters of any model",
        description="Draws what a model does, as PNG files, and prints their paths. Pictures come "
        "right after SOURCE; positions and filters need none.",
        allow_abbrev=False,
    )
    add_model(parser)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="files, folders, or patterns in quotes"
    )
    parser.add_argument(
        "--what",
        nargs="+",
        default=["all"],
        choices=KINDS,
        help="default: all, which leaves out what the model does not have",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where the files go; those of the same names are replaced",
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="whose attention and features, from 0; a rollout ends there (default: the last)",
    )
    parser.add_argument(
        "--head",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="whose attention beside the mean, from 0 (default: all)",
    )
    parser.add_argument(
        "--foreground",
        type=float,
        metavar="X",
        help="pca: leave out patches on the other side of X along the first component, as 0",
    )
    parser.add_argument(
        "--norm-pix-loss",
        action=argparse.BooleanOptionalAction,
        help="reconstruction: the model learned normalised pixels (default: what a run says)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]!r} stands after the options: give pictures right after SOURCE")
    common.refuse(rest)
    from vit_jax.visualize.draw import visualize

    visualize(
        arguments.source,
        arguments.images,
        arguments.output,
        arguments.what,
        layer=arguments.layer,
        heads=arguments.head,
        foreground=arguments.foreground,
        norm_pix_loss=arguments.norm_pix_loss,
        **model_options(arguments),
    )
    return 0
