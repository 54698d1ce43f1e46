"""`vit-jax export`: a checkpoint becomes a folder that another library loads, or a program."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common

WEIGHTS = ("vit_jax", "transformers", "timm", "npz", "mae", "own")
PROGRAMS = ("stablehlo", "onnx")


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "export",
        help="take a model out: weights for PyTorch and others, or a program",
        description="Writes what Transformers' from_pretrained, timm's create_model or readers of "
        "Google's .npz files load without a missing or unexpected key; or the model as a program "
        "with its weights inside, for JAX alone (stablehlo) or onnxruntime (onnx).",
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
        choices=(*WEIGHTS, *PROGRAMS),
        help="of what library; vit_jax: as vit-jax convert writes it; mae: the .pth of MAE's "
        "authors; own: of your own PyTorch code, which --mapping describes; stablehlo, onnx: a "
        "program",
    )
    parser.add_argument("--mapping", metavar="FILE", help="mapping table of your own layout")
    common.add_run_choice(parser)
    _add_program(parser)
    parser.set_defaults(run=run)


def _add_program(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say how a model becomes a program."""
    group = parser.add_argument_group("of a program")
    group.add_argument(
        "--pixels",
        choices=("normalized", "uint8"),
        help="what goes in: float32 as vit_jax.preprocess gives it, or 0 to 255, normalised "
        "inside (default: normalized)",
    )
    group.add_argument(
        "--which",
        choices=("pooled", "cls", "mean", "tokens"),
        help="features in place of the prediction, as of vit-jax features",
    )
    group.add_argument(
        "--img-size",
        type=int,
        nargs="+",
        metavar="N",
        help="side of the pictures, or height and width (default: the model's)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the computation; inputs and outputs are float32 (default: the model's)",
    )
    group.add_argument(
        "--platforms",
        nargs="+",
        metavar="NAME",
        help="of stablehlo: cpu, cuda, rocm, tpu (default: cpu cuda tpu)",
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.deploy.export import export_checkpoint

    export_checkpoint(
        arguments.checkpoint,
        arguments.output,
        arguments.format,
        mapping=arguments.mapping,
        **common.run_choice(arguments),
        pixels=arguments.pixels,
        features=arguments.which,
        img_size=common.sides(arguments.img_size),
        dtype=arguments.dtype,
        platforms=arguments.platforms,
    )
    return 0
