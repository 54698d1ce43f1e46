"""`vit-jax tpu`: trains on Cloud TPU VMs, through the command `gcloud`."""

import argparse
import functools
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from vit_jax.cli import arguments as common
from vit_jax.errors import UserError

POLL = 30.0
LONGEST = 86400
INTERRUPTED = 130  # as a shell gives for Ctrl-C
NOBODY_READS = 141  # and for SIGPIPE


def add_parser(commands: Any) -> None:
    """Adds the subcommand, and its own, to `vit-jax`."""
    parser = commands.add_parser(
        "tpu",
        help="create TPU VMs, train on them, resume what was preempted",
        description="Runs gcloud, and prints each command that it runs. docs/launch.md shows how "
        "the parts go together.",
    )
    own = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = _add(own, "create", "make a TPU, or find it ready", _create)
    _add_hardware(create)
    setup = _add(own, "setup", "install the library on all workers", _setup)
    _add_library(setup)
    train = _add(own, "train", "train on all workers; the same command resumes", _train)
    train.epilog = (
        "--config.KEY=VALUE overrides any value of the recipe. The exit code is that of a worker "
        "that failed, 75 where the run was stopped and can be resumed, 1 where it was lost."
    )
    train.add_argument(
        "--config", required=True, metavar="FILE", help="the recipe, a .py file here"
    )
    train.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="of the run, as the workers see it: gs://...",
    )
    train.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for the workers; not printed",
    )
    train.add_argument(
        "--restarts", type=int, default=0, metavar="N", help="resume that often after a preemption"
    )
    train.add_argument("--detach", action="store_true", help="return once it runs")
    _add_hardware(train)
    _add_library(train)
    _add(own, "status", "how the TPU and the run on each worker are", _status)
    logs = _add(own, "logs", "what the workers printed", _logs)
    logs.add_argument("--follow", action="store_true", help="until the run ends")
    logs.add_argument("--worker", type=int, metavar="N", help="only this one")
    logs.add_argument(
        "--lines", type=_count, default=50, metavar="N", help="at first, 0: all (default: 50)"
    )
    stop = _add(own, "stop", "let the run save and end", _stop)
    stop.add_argument(
        "--timeout", type=_seconds, default=300.0, metavar="SECONDS", help="(default: 300)"
    )
    stop.add_argument("--kill", action="store_true", help="what has not ended then")
    delete = _add(own, "delete", "remove the TPU", _delete)
    delete.add_argument("--yes", action="store_true", help="do not ask")
    delete.add_argument("--force", action="store_true", help="even where a run is going")


def _seconds(text: str) -> float:
    """Reads an argument, as argparse wants it."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, 0 to {LONGEST}")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def _add(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    """Adds a command, with what says which TPU is meant."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="of the TPU, and of its queued resource")
    parser.add_argument("--zone", help="(default: gcloud's)")
    parser.add_argument("--project", help="(default: gcloud's)")
    parser.add_argument(
        "--ssh-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="for gcloud's ssh and scp, as --ssh-flag=--internal-ip",
    )
    parser.add_argument(
        "--poll",
        type=_seconds,
        default=POLL,
        metavar="SECONDS",
        help=f"between two looks (default: {POLL:g})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    parser.set_defaults(run=functools.partial(_until_interrupted, run))
    return parser


def _until_interrupted(run: Any, arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs a command; Ctrl-C is no mistake of ours, so it shows no traceback."""
    try:
        return run(arguments, rest)
    except KeyboardInterrupt:
        print("\nvit-jax: interrupted; what gcloud has begun goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # its output went to something like `head`, which has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to create")
    group.add_argument("--accelerator-type", metavar="TYPE", help="as v4-8, v5litepod-16, v6e-32")
    group.add_argument("--type", metavar="GENERATION", help="or the generation, as v4, and")
    group.add_argument("--topology", help="chips in each direction, as 2x2x1")
    group.add_argument("--version", help="of the software (default: the one for JAX)")
    group.add_argument("--spot", action="store_true", help="cheap; may be taken away at any time")
    group.add_argument("--queued", action="store_true", help="wait in line, as a queued resource")
    group.add_argument(
        "--no-autocheckpoint",
        action="store_true",
        help="no SIGTERM before maintenance (v2 to v4 and v5e have it)",
    )
    group.add_argument(
        "--create-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="for gcloud's create, as --create-flag=--network=NAME",
    )


def _add_library(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to install")
    group.add_argument(
        "--package", metavar="REQUIREMENT", help="as 'vit_jax[tpu,gcs] @ git+https://...'"
    )
    group.add_argument("--source", metavar="FOLDER", help="or a checkout here, which is copied")


def _tpu(arguments: argparse.Namespace) -> Any:
    from vit_jax.launch.gcloud import Gcloud
    from vit_jax.launch.tpu_vm import Tpu

    if not arguments.poll:
        raise UserError(f"--poll {arguments.poll:g}: expected a number of seconds above 0")
    return Tpu(
        arguments.name,
        arguments.zone,
        arguments.project,
        tuple(arguments.ssh_flag),
        Gcloud(arguments.dry_run),
        arguments.poll,
    )


def _hardware(arguments: argparse.Namespace) -> Any:
    from vit_jax.launch.tpu_vm import Hardware

    return Hardware(
        arguments.accelerator_type,
        arguments.type,
        arguments.topology,
        arguments.version,
        arguments.spot,
        arguments.queued,
        not arguments.no_autocheckpoint,
        tuple(arguments.create_flag),
    )


def _library(arguments: argparse.Namespace) -> Any:
    from vit_jax.launch.install import Library

    return Library(arguments.package, arguments.source)


def _create(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest)
    from vit_jax.launch.create import create

    return create(_tpu(arguments), _hardware(arguments))


def _setup(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest)
    from vit_jax.launch.install import setup

    return setup(_tpu(arguments), _library(arguments))


def _train(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from vit_jax.launch.run import Run, train

    names = ("accelerator_type", "type", "topology", "version", "spot", "queued", "create_flag")
    hardware = any(getattr(arguments, name) for name in (*names, "no_autocheckpoint"))
    library = arguments.package is not None or arguments.source is not None
    overrides = tuple(common.overrides(rest))
    return train(
        _tpu(arguments),
        Run(arguments.config, arguments.workdir, overrides, tuple(arguments.env)),
        _hardware(arguments) if hardware else None,
        _library(arguments) if library else None,
        arguments.restarts,
        arguments.detach,
    )


def _status(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest)
    from vit_jax.launch.look_after import status

    return status(_tpu(arguments))


def _logs(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest)
    from vit_jax.launch.look_after import logs

    return logs(_tpu(arguments), arguments.worker, arguments.lines, arguments.follow)


def _stop(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest)
    from vit_jax.launch.look_after import stop

    return stop(_tpu(arguments), arguments.timeout, arguments.kill)


def _delete(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest)
    from vit_jax.launch.look_after import delete

    return delete(_tpu(arguments), arguments.yes, arguments.force)
