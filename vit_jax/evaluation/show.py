"""Prints results of an evaluation."""

import json
import sys
from typing import Any, Protocol, TextIO

from vit_jax import printing


class Results(Protocol):
    """What an evaluation found."""

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        ...

    def as_text(self) -> str:
        """For people."""
        ...


def show(found: Results, as_json: bool, output: TextIO | None = None) -> None:
    """Prints results: for people, or as one line of JSON.

    On a terminal lines are cut to its width, where names of classes are long; elsewhere they are
    whole.

    Args:
        found: the results.
        as_json: one object, see `as_json` of the results.
        output: where to; None is standard output.
    """
    output = sys.stdout if output is None else output
    text = json.dumps(found.as_json()) if as_json else _lines(found, printing.columns(output))
    printing.write(text, output)


def _lines(found: Results, width: int | None) -> str:
    lines = map(printing.printable, found.as_text().split("\n"))
    return "\n".join(printing.shortened(line, width) for line in lines)
