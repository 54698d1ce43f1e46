"""`vit-jax calibration`: whether a model's probabilities are true."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.labelled import add_labelled, labelled_options


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "calibration",
        help="whether a model is as often right as it is sure, as numbers and as a picture",
        description="Lets any model classify labelled pictures, and prints calibration errors, "
        "Brier score and negative log-likelihood, if asked for with a fitted temperature too.",
        allow_abbrev=False,
    )
    add_labelled(parser)
    parser.add_argument(
        "--bins", type=int, default=15, metavar="M", help="of confidence (default: 15)"
    )
    parser.add_argument(
        "--fit-temperature",
        type=float,
        metavar="SHARE",
        help="fit a temperature to this share of the pictures, and score the others",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="that chooses that share (default: 0)"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the reliability plot: .png, .svg or .pdf, replaced"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.evaluation.calibration import calibration
    from vit_jax.evaluation.show import show

    found = calibration(
        **labelled_options(arguments),
        bins=arguments.bins,
        fit_share=arguments.fit_temperature,
        seed=arguments.seed,
        picture=arguments.picture,
    )
    show(found, arguments.json)
    return 0
