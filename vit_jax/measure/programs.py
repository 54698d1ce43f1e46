"""Compiled programs and the time that they take.

JAX returns before a program has run: time is read before the first of several calls and when the
result of the last is there, and nothing is fetched in between.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.ahead.report import Memory


class Program:
    """A compiled function with its arguments.

    Attributes:
        compiled: the function.
        compile_seconds: that tracing and compiling took.
    """

    def __init__(
        self,
        compiled: jax.stages.Compiled,
        arguments: Sequence[Any],
        compile_seconds: float,
        carries: bool = False,
    ):
        """Binds a function to its arguments, which are on the device.

        Args:
            compiled: the function.
            arguments: of each call.
            compile_seconds: that it took.
            carries: the function returns a pair, whose first part is the first argument of the next
                call; that argument may be donated.
        """
        self.compiled, self.compile_seconds = compiled, compile_seconds
        self._arguments, self._carries = list(arguments), carries

    @property
    def bytes(self) -> int:
        """What the program takes on a device at most: arguments, results and what is between."""
        return Memory.of(self.compiled).total

    def timed(self, calls: int = 1) -> float:
        """Seconds from the first call to the result of the last."""
        start = time.perf_counter()
        for _ in range(calls):
            result = self._call()
        jax.block_until_ready(result)
        return time.perf_counter() - start

    def _call(self) -> Any:
        result = self.compiled(*self._arguments)
        if self._carries:
            self._arguments[0] = result[0]
        return result


def compiled(function: Any, *arguments: Any) -> Program:
    """A function without state, compiled for arguments that are on the device."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return Program(program, arguments, time.perf_counter() - start)


def matmul(size: int, dtype: str) -> tuple[Program, float]:
    """A product of two square matrices, and the floating-point operations in it."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.float32).astype(dtype) for key in keys)
    return compiled(jnp.matmul, a, b), 2.0 * size**3
