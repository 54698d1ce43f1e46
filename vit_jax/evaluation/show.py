"""Prints results of an evaluation."""

import json
import sys
from typing import Any, Protocol

from vit_jax.inference.predict import encodable, reader_may_stop


class Results(Protocol):
    """What an evaluation found."""

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        ...

    def as_text(self) -> str:
        """For people."""
        ...


def show(found: Results, as_json: bool) -> None:
    """Prints results to standard output: for people, or as one line of JSON."""
    text = json.dumps(found.as_json()) if as_json else found.as_text()
    with reader_may_stop(sys.stdout):
        print(encodable(text, sys.stdout), flush=True)
