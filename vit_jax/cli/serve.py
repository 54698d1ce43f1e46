"""`vit-jax serve`: a page that shows what a model says of pictures."""

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.predict import add_model, add_top_k, model_options


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "serve",
        help="a web page and an HTTP endpoint that classify pictures and show the attention",
        description="Starts a web page and an HTTP endpoint that classify an uploaded picture and "
        "show where the model looks. Prints the address when it is ready; ends with Ctrl-C or "
        "SIGTERM.",
        allow_abbrev=False,
    )
    add_model(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on; 0.0.0.0 lets others in (default: 127.0.0.1, this machine)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="0 takes any that is free and prints it (default: 8000)",
    )
    add_top_k(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=4,
        metavar="N",
        help="pictures that are computed at once; each time costs as much as for all N "
        "(default: 4)",
    )
    parser.add_argument(
        "--max-upload-mb",
        type=float,
        default=20,
        metavar="MB",
        help="largest file that is taken, in millions of bytes (default: 20)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=50_000_000,
        metavar="N",
        help="largest picture that is decoded, height times width (default: 50000000)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.serving.run import serve

    serve(
        arguments.source,
        arguments.host,
        arguments.port,
        top_k=arguments.top_k,
        batch_size=arguments.batch_size,
        max_upload_mb=arguments.max_upload_mb,
        max_pixels=arguments.max_pixels,
        report=common.to_stderr,
        announce=functools.partial(print, flush=True),
        **model_options(arguments),
    )
    return 0
