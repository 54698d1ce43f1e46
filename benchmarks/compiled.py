"""Times of compiled functions that do not need the values of their arguments."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.measure.programs import Program, compiled


class Compiled(Program):
    """A compiled function with random arguments, and the seconds that each run took.

    Attributes:
        temporary: bytes that the program needs beside its arguments and results.
        seconds: of each run.
    """

    def __init__(self, function: Callable[..., Any], *shapes: Any):
        """Compiles a function for trees of `jax.ShapeDtypeStruct`s; arguments are float32."""
        rng = np.random.default_rng(0)
        arguments = jax.device_put(
            jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype("float32"), shapes)
        )
        made = compiled(function, *arguments)
        super().__init__(made.compiled, arguments, made.compile_seconds)
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes
        self.seconds: list[float] = []

    def run(self) -> None:
        """Measures once."""
        self.seconds.append(self.timed())

    def summary(self) -> dict[str, Any]:
        """What is reported of the runs."""
        return {
            "seconds": statistics.median(self.seconds),
            "lowest": min(self.seconds),
            "highest": max(self.seconds),
            "temporary_bytes": self.temporary,
        }


def alternate(programs: Sequence[Compiled], rounds: int) -> None:
    """Runs each program once to warm up, then all of them in turn, `rounds` times."""
    for program in programs:
        program.run()
        program.seconds.clear()
    for _ in range(rounds):
        for program in programs:
            program.run()
