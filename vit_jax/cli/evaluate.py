"""`vit-jax eval`: evaluates a checkpoint of a run."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a checkpoint of a run",
        description="Evaluates a checkpoint on the evaluation split of its run.",
        epilog="--config.KEY=VALUE overrides a value of the run, for example "
        "--config.data.eval_split=validation or --config.mesh.tensor=2.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="WHICH",
        help="last, best or the number of a step (default: last)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    overrides = common.overrides(rest)
    from vit_jax.training.checkpoint import report_failures_once
    from vit_jax.training.evaluation import evaluate

    report_failures_once()
    evaluate(arguments.workdir, arguments.checkpoint, overrides)
    return 0
