"""`vit-jax knn`: how well a model's features tell classes apart, without training."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "knn",
        help="classify by nearest neighbours in a model's features",
        description="Classifies the evaluation split by the features of the training split, by "
        "weighted nearest neighbours. The model is that of --config, with the weights of "
        "config.init_from.",
        epilog="--config.KEY=VALUE overrides any value, for example --config.init_from=DIR.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a recipe, a .py file")
    add_votes(parser)
    parser.set_defaults(run=run)


def add_votes(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the arguments of nearest neighbours, None where they are not given."""
    parser.add_argument(
        "--neighbours",
        type=int,
        nargs="+",
        metavar="K",
        help="numbers of votes (default: 10 20 100 200)",
    )
    parser.add_argument(
        "--temperature", type=float, help="of the votes; less favours the nearest (default: 0.07)"
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    overrides = common.overrides(rest)
    from vit_jax.training.config import load_config
    from vit_jax.training.knn import evaluate_knn

    names = ("neighbours", "temperature")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    evaluate_knn(load_config(arguments.config, overrides), **given)
    return 0
