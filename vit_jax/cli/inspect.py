"""`vit-jax inspect`: what a model and its training step cost."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vit_jax import printing
from vit_jax.cli import arguments as common
from vit_jax.errors import UserError


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "inspect",
        help="parameters, FLOPs and memory of a model, and which chips hold it",
        description="Prints the parameters of a model by part, what attention and MLP compute, "
        "what a training step holds in memory, and how many images common chips take at once. "
        "Nothing is computed, and no chip has to be there.",
        epilog="--config.KEY=VALUE overrides any value of the configuration, for example "
        "--config.model.remat=full or --config.optim.name=lion.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        metavar="CONFIG_OR_MODEL_OR_RUN",
        help="a recipe (.py), a name of vit-jax models, the folder of a run or of vit-jax convert",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="pixels, or height and width (default: the model's own)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images an update, over all devices (default: the configuration's)",
    )
    parser.add_argument(
        "--mesh", metavar="AXIS=N,...", help="such as data=64,fsdp=4 (default: the configuration's)"
    )
    parser.add_argument("--json", action="store_true", help="print the report for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    overrides = common.overrides(rest)
    size = arguments.image_size
    if size is not None and len(size) > 2:
        raise UserError(f"--image-size {' '.join(map(str, size))}: expected one number, or two")
    mesh = None if arguments.mesh is None else common.mesh(arguments.mesh)
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is computed; chips are left to others
    from vit_jax.inspect.inspection import inspect_model

    found = inspect_model(
        arguments.source,
        image_size=common.sides(size),
        batch_size=arguments.batch_size,
        mesh=mesh,
        overrides=overrides,
        report=_progress,
    )
    printing.write(found.to_json() if arguments.json else str(found), sys.stdout)
    return 0


def _progress(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)
