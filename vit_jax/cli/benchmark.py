"""`vit-jax benchmark`: how fast a model is on this machine."""

import argparse
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.cli.labelled import add_json


def add_parser(commands: Any) -> None:
    """Adds the subcommand to `vit-jax`."""
    parser = commands.add_parser(
        "benchmark",
        help="throughput, latency, memory and compile time of a model on this machine",
        description="Measures a model on the first device, forward or in training, beside matrix "
        "products of the same dtype.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a name, with random weights, or what vit-jax predict takes"
    )
    parser.add_argument(
        "--model-arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a hyper-parameter that differs from the name's, as img_size=384",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        default=[1, 8],
        metavar="N",
        help="images a call (default: 1 8)",
    )
    parser.add_argument(
        "--dtype", nargs="+", default=["float32"], metavar="DTYPE", help="default: float32"
    )
    parser.add_argument(
        "--what",
        nargs="+",
        default=["forward"],
        choices=("forward", "train"),
        help="default: forward",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="of a round of each program, about (default: 1)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    common.refuse(rest)
    from vit_jax.evaluation.show import show
    from vit_jax.measure.benchmark import benchmark

    found = benchmark(
        arguments.model,
        arguments.batch_size,
        arguments.dtype,
        arguments.what,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        model_options=common.model_arguments(arguments.model_arg),
        report=common.to_stderr,
    )
    show(found, arguments.json)
    return 0
