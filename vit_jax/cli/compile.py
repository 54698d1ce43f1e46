"""`vit-jax compile`: compiles a recipe's train step for chips that are not attached."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.errors import UserError

DOES_NOT_FIT = 3  # a traceback exits with 1, bad input with 2


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "compile",
        help="compile a train step for chips that are not attached, and say what it takes",
        description="Compiles the train step of a recipe and reports memory, FLOPs, collectives "
        "and the least time that a step can take. Neither the chips nor the data have to be there.",
        epilog="--config.KEY=VALUE overrides any value of the recipe, for example "
        f"--config.data.batch_size=4096. Exit code {DOES_NOT_FIT}: the step does not fit the "
        "memory of a chip.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, a .py file")
    parser.add_argument(
        "--platform", choices=("tpu", "gpu", "cpu"), help="(default: tpu, where a topology is said)"
    )
    parser.add_argument(
        "--topology",
        metavar="KIND:SIDES",
        help="of the TPU, such as v5e:16x16 or v5p:4x4x4 (default: the recipe's)",
    )
    parser.add_argument(
        "--mesh", metavar="AXIS=N,...", help="such as data=64,fsdp=4 (default: the recipe's)"
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="of data that is not known here, where the recipe does not say it",
    )
    parser.add_argument(
        "--train-examples", type=int, metavar="N", help="of the data; only durations depend on it"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    overrides = common.overrides(rest)
    mesh = None if arguments.mesh is None else common.mesh(arguments.mesh)
    if arguments.json is not None:
        _check_place(Path(arguments.json))
    import jax

    if arguments.platform != "gpu":  # a TPU that is attached is left to others
        jax.config.update("jax_platforms", "cpu")
    from vit_jax.ahead.compile_ahead import compile_ahead
    from vit_jax.training.config import load_config

    report = compile_ahead(
        load_config(arguments.config, overrides),
        arguments.platform,
        topology=arguments.topology,
        mesh=mesh,
        num_classes=arguments.num_classes,
        train_examples=arguments.train_examples,
        progress=common.to_stderr,
    )
    print(report)
    if arguments.json is not None:
        Path(arguments.json).write_text(report.to_json(), encoding="utf-8")
    return 0 if report.fits else DOES_NOT_FIT


def _check_place(path: Path) -> None:
    """Raises UserError where no file can be written there: compiling may take long."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--json {path}: expected the name of a file in a folder that is there")
