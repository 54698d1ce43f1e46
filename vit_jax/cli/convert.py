"""`vit-jax convert`: weights of another library become a checkpoint of this one."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.errors import UserError

DTYPES = ("float32", "source")


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "convert",
        help="bring pretrained weights in, from PyTorch and others",
        description="Reads safetensors, .pth, TorchScript and .npz files, a folder that holds one, "
        "or a repository of the Hugging Face Hub, and writes an Orbax checkpoint with the model's "
        "name, hyper-parameters and preprocessing beside it.",
        epilog="Training starts from it with --config.init_from=DIR.",
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--param-dtype",
        default="float32",
        choices=DTYPES,
        help="of the parameters; source keeps those of the file (default: float32)",
    )
    parser.set_defaults(run=run)


def add_source(
    parser: argparse.ArgumentParser,
    what: str = "a path, hf-hub:owner/name or timm/name",
    required: bool = True,
) -> None:
    """Adds the arguments that say what is read."""
    parser.add_argument("source", nargs=None if required else "?", metavar="SOURCE", help=what)
    parser.add_argument(
        "--model", metavar="NAME", help="where the source does not say which model it is"
    )
    parser.add_argument(
        "--model-arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a hyper-parameter in which the source differs from --model, as depth=3",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the hub")
    parser.add_argument("--key", help="which part of a nested file is meant, as teacher")
    parser.add_argument("--mapping", metavar="FILE", help="mapping table of a layout of your own")
    parser.add_argument("--offline", action="store_true", help="take all from the hub's cache")


def source_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_source`, as `convert.pretrained.load` takes them."""
    names = ("source", "model", "revision", "key", "mapping", "offline")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.model_arg:
        options["model"] = _module(arguments.model, arguments.model_arg)
    return options


def _module(name: str | None, texts: Sequence[str]) -> Any:
    """The module that `--model` and `--model-arg` describe."""
    from vit_jax.models import create_model

    if name is None:
        raise UserError("--model-arg says how a source differs from --model: give --model as well")
    return create_model(name, **common.model_arguments(texts))


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.convert.convert import convert

    convert(arguments.output, param_dtype=arguments.param_dtype, **source_options(arguments))
    return 0
