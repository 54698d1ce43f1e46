"""What the commands that evaluate a model on labelled pictures share."""

import argparse
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.predict import add_model, add_passing, model_options

DATA = (
    "a folder of classes, digits, tfds:NAME, folder:PATH or idx:PATH (default: the data of the run)"
)


def add_labelled(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which model classifies which pictures."""
    add_model(parser, ", or a file of --save")
    parser.add_argument("--data", metavar="DATA", help=DATA)
    parser.add_argument("--split", metavar="NAME", help="of the data (default: to evaluate on)")
    add_data_dir(parser)
    parser.add_argument(
        "--classes-in-order",
        action="store_true",
        help="the data's classes are the model's, in the same order, by other names",
    )
    add_passing(parser)
    parser.add_argument(
        "--save", metavar="FILE", help="keep logits and labels, a new .npz, to be SOURCE next time"
    )
    add_json(parser)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that says where TFDS data sets are."""
    parser.add_argument("--data-dir", metavar="DIR", help="where prepared TFDS data sets are")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that asks for JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def labelled_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_labelled`, as `evaluation.predictions.classify` takes them."""
    return {
        "source": arguments.source,
        "data": arguments.data,
        "split": arguments.split,
        "data_dir": arguments.data_dir,
        "in_order": arguments.classes_in_order,
        "output": arguments.save,
        "batch_size": arguments.batch_size,
        "skip_unreadable": arguments.skip_unreadable,
        "report": common.to_stderr,
        **model_options(arguments),
    }
