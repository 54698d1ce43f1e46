"""`vit-jax predict`: what pictures show."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.convert import add_source, source_options


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "predict",
        help="classify pictures with any model",
        description="Prints the most probable classes of each picture.",
        allow_abbrev=False,
    )
    add_model(parser)
    add_images(parser)
    add_top_k(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def add_top_k(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that says how many classes of a picture are told."""
    parser.add_argument(
        "--top-k", type=int, default=5, metavar="K", help="classes of each picture (default: 5)"
    )


def add_model(parser: argparse.ArgumentParser, more: str = "", required: bool = True) -> None:
    """Adds the arguments that say which model is meant: a run's, a converted one, or others'.

    Args:
        parser: of the subcommand.
        more: what else the source may be, for the help.
        required: without a source there is an error.
    """
    what = "folder of a run or of vit-jax convert, a weights file, a hub id"
    add_source(parser, what + more, required)
    common.add_run_choice(parser)


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_model`, the source apart, as `vit_jax.open_model` takes them."""
    options = source_options(arguments)
    del options["source"]
    return {**options, **common.run_choice(arguments)}


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which pictures are meant, and how they are gone through."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, or patterns in quotes"
    )
    add_passing(parser)


def add_passing(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say how pictures are gone through."""
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="pictures that are computed at once (default: 32)",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out, and report, what cannot be decoded",
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.inference.predict import predictions, show

    found = predictions(
        arguments.source,
        arguments.images,
        arguments.top_k,
        arguments.batch_size,
        skip_unreadable=arguments.skip_unreadable,
        report=common.to_stderr,
        **model_options(arguments),
    )
    show(found, arguments.json)
    return 0
