"""The train step of a recipe as a compiled program; no array is made."""

import dataclasses
import re
import time

import jax

from vit_jax.training.experiment import Experiment

# How XLA says that a program does not fit: on TPUs while it compiles.
_SPACE = re.compile(r"([\d.]+)([KMGT]?)\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT]?)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled train step.

    Attributes:
      compiled: the program.
      seconds: that tracing and compiling took.
    """

    compiled: jax.stages.Compiled
    seconds: float


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """The compiler's answer to a step that does not fit.

    Attributes:
      needed: bytes that it would take on a device; where temporaries alone are too large, theirs.
      available: bytes that there are.
      seconds: that tracing and compiling took.
      message: the compiler's own words.
    """

    needed: int
    available: int
    seconds: float
    message: str


def compile_step(experiment: Experiment) -> Step | TooLarge:
    """Compiles the train step as `vit_jax.train` would run it, for the experiment's devices.

    Args:
      experiment: on devices that need not be attached.
    """
    state = experiment.state_factory.targets()
    batch, wishes = experiment.batch_shapes(), experiment.wish_shapes()
    # Not within `activate`: what is computed while the step is put together is computed here.
    step = experiment.train_step(experiment.constant_shapes())
    start = time.perf_counter()
    with experiment.activate():
        lowered = step.lower(state, batch, wishes)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        space = space_in(str(error))
        if space is None:
            raise
        return TooLarge(*space, time.perf_counter() - start, str(error))
    return Step(compiled, time.perf_counter() - start)


def space_in(message: str) -> tuple[int, int] | None:
    """Returns the bytes needed and available that an error of the compiler tells of.

    Args:
      message: the error's text; None is returned where it is about something else.
    """
    found = _SPACE.search(message)
    if not found or "RESOURCE_EXHAUSTED" not in message:
        return None
    needed, available = (
        int(float(number) * _UNITS[unit]) for number, unit in (found.group(1, 2), found.group(3, 4))
    )
    return needed, available
