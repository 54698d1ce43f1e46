"""`vit-jax probe`: what a model's features are worth, without training it."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.knn import add_votes
from vit_jax.cli.labelled import DATA, add_data_dir, add_json
from vit_jax.cli.predict import add_model, add_passing, model_options

METHODS = ("knn", "few-shot", "linear")


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "probe",
        help="nearest neighbours, few-shot regression and a linear probe on frozen features",
        description="Prints how well classifiers do on the features of any model, which stays as "
        "it is; or on features that vit-jax features wrote, without a model.",
        allow_abbrev=False,
    )
    add_model(parser, required=False)
    _add_data(parser)
    parser.add_argument(
        "--which",
        choices=("pooled", "cls", "mean"),
        help="what the head sees, the class token, or the mean of the patches' tokens (default: "
        "the first of them that the model has)",
    )
    add_passing(parser)
    _add_choices(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DATA", help=DATA)
    parser.add_argument("--train-split", metavar="NAME", help="of the data (default: train)")
    parser.add_argument(
        "--test-split", metavar="NAME", help="of the data (default: to evaluate on)"
    )
    add_data_dir(parser)
    for part in ("train", "test"):
        parser.add_argument(
            f"--{part}",
            metavar="WHERE",
            help="in the place of --data: a folder of classes, or a file of vit-jax features",
        )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of the classifiers")
    group.add_argument("--methods", nargs="+", choices=METHODS, help="which of them (default: all)")
    add_votes(group)
    group.add_argument(
        "--shots", type=int, nargs="+", metavar="N", help="examples a class (default: 1 5 10 25)"
    )
    group.add_argument(
        "--seeds", type=int, metavar="N", help="choices of these examples (default: 3)"
    )
    group.add_argument(
        "--shot-l2",
        type=float,
        nargs="+",
        metavar="X",
        help="of few-shot regression; of several the best on validation examples (default: 1024)",
    )
    group.add_argument(
        "--l2",
        type=float,
        nargs="+",
        metavar="X",
        help="of the linear probe, likewise (default: 1e-6 to 1, ten times more each)",
    )
    group.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help="of the training examples, to choose by (default: 0.1)",
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.evaluation.probe import Choices, probe
    from vit_jax.evaluation.show import show

    named = (field.name for field in dataclasses.fields(Choices))  # as the options are
    given = {name: value for name in named if (value := getattr(arguments, name)) is not None}
    options = {} if arguments.source is None else model_options(arguments)
    found = probe(
        arguments.source,
        arguments.data,
        train=arguments.train,
        test=arguments.test,
        train_split=arguments.train_split,
        test_split=arguments.test_split,
        data_dir=arguments.data_dir,
        kind=arguments.which,
        choices=Choices(**given),
        batch_size=arguments.batch_size,
        skip_unreadable=arguments.skip_unreadable,
        report=common.to_stderr,
        **options,
    )
    show(found, arguments.json)
    return 0
