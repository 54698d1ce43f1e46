"""`vit-jax train`: trains what a recipe describes, or resumes it."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.training.signals import StopSignals

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "train",
        help="train a model, or resume a run that was stopped",
        description="Trains what the recipe describes. The same command again resumes the run.",
        epilog="--config.KEY=VALUE overrides any value of the recipe, for example "
        f"--config.optim.lr=1e-3. Exit code {RESUME_ME}: stopped by a signal, saved, resume me.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, a .py file")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    overrides = common.overrides(rest)
    with StopSignals() as signals:  # the imports alone take seconds
        from vit_jax.training.checkpoint import report_failures_once
        from vit_jax.training.config import load_config
        from vit_jax.training.loop import train

        report_failures_once()
        result = train(load_config(arguments.config, overrides), arguments.workdir, signals)
        return 0 if result.completed else RESUME_ME
