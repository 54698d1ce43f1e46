"""What the subcommands share: `--config.key=value`, and which of a run's parameters are meant."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from vit_jax.errors import UserError

PREFIX = "--config."


def to_stderr(text: str) -> None:
    """Prints a sentence for the user; standard output is for results."""
    print(text, file=sys.stderr)


def overrides(arguments: Sequence[str]) -> list[str]:
    """Returns `key=value` for each `--config.key=value` or `--config.key value`.

    Raises:
      UserError: an argument is of another form.
    """
    found = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith(PREFIX):
            raise UserError(f"unknown argument {argument!r}; see vit-jax COMMAND --help")
        key = argument.removeprefix(PREFIX)
        if "=" not in key:
            if not remaining:
                raise UserError(f"{argument} has no value; write {argument}=VALUE")
            key = f"{key}={remaining.pop(0)}"
        found.append(key)
    return found


def refuse(arguments: Sequence[str]) -> None:
    """Raises UserError if there is any argument that a subcommand without `--config` knows not."""
    if arguments:
        raise UserError(f"unknown argument {arguments[0]!r}; see vit-jax COMMAND --help")


def model_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters of `--model-arg KEY=VALUE`.

    Raises:
      UserError: an argument is of another form.
    """
    from vit_jax.training.overrides import literal

    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--model-arg {text!r}: expected KEY=VALUE, for example depth=3")
        found[key] = literal(value)
    return found


def add_run_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which of a run's parameters are meant."""
    group = parser.add_argument_group("of a run")
    group.add_argument(
        "--step",
        default="last",
        metavar="WHICH",
        help="last, best or the number of a step (default: last)",
    )
    group.add_argument(
        "--params",
        default="ema",
        choices=("ema", "trained"),
        help="the running average where there is one, or what was trained (default: ema)",
    )


def run_choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_run_choice`, as `training.trained` takes them."""
    return {"which": arguments.step, "average": arguments.params == "ema"}


def sides(numbers: Sequence[int] | None) -> int | tuple[int, ...] | None:
    """A picture's side, or height and width, of an option that takes one number or two."""
    if numbers is None:
        return None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def mesh(text: str) -> dict[str, int]:
    """Returns the devices along each axis that `data=64,fsdp=4` names.

    Raises:
      UserError: it is of another form.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if not re.fullmatch("-?[0-9]+", size) or axis in found:
            raise UserError(f"--mesh {text}: expected AXIS=N,... such as data=64,fsdp=4")
        found[axis] = int(size)
    return found
