"""`vit-jax export`: a checkpoint becomes a folder that another library loads."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "export",
        help="take weights out, for PyTorch and others",
        description="Writes what Transformers' from_pretrained, timm's create_model or readers of "
        "Google's .npz files load without a missing or unexpected key.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="folder of a run or of vit-jax convert, or weights that say what they are",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        required=True,
        choices=("vit_jax", "transformers", "timm", "npz", "mae", "own"),
        help="of what library; vit_jax: as vit-jax convert writes it; mae: the .pth of MAE's "
        "authors; own: of your own PyTorch code, which --mapping describes",
    )
    parser.add_argument("--mapping", metavar="FILE", help="mapping table of your own layout")
    common.add_run_choice(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.training.trained import export_checkpoint

    export_checkpoint(
        arguments.checkpoint,
        arguments.output,
        arguments.format,
        mapping=arguments.mapping,
        **common.run_choice(arguments),
    )
    return 0
