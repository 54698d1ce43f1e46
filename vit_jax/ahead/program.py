"""The train step of a recipe as a compiled program; no array is made."""

import dataclasses
import re
import time
from collections.abc import Callable

import jax

from vit_jax.errors import UserError
from vit_jax.training.experiment import Experiment

# How XLA says that a program does not fit, on TPUs while it compiles: the device's memory, and that
# of a core, which kernels take parts of ("vmem" for vectors, "smem" for numbers).
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_SIZE = r"([\d.]+)([KMGT]?)"
_SPACE = re.compile(rf"Used {_SIZE} of {_SIZE} hbm|\({_SIZE}\) exceeds available HBM \({_SIZE}\)")
_OF_A_CORE = re.compile(r"(?:in memory space |space=)([vs]mem)\b")
_KERNEL = re.compile(r"op_name=\"([^\"]*)\"|\] :: (\S+)")
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


def compile_step(experiment: Experiment, progress: Callable[[str], None]) -> Step | TooLarge:
    """Compiles the train step as `vit_jax.train` would run it, for the experiment's devices.

    Args:
      experiment: on devices that need not be attached.
      progress: is given a sentence where tracing begins, and one where compiling does.

    Raises:
      UserError: a kernel takes more of a core's own memory than there is.
    """
    state = experiment.state_factory.targets()
    batch, wishes = experiment.batch_shapes(), experiment.wish_shapes()
    # Not within `activate`: what is computed while the step is put together is computed here.
    step = experiment.train_step(experiment.constant_shapes())
    progress(f"tracing the train step of {experiment.config.model.name}")
    start = time.perf_counter()
    with experiment.activate():
        lowered = step.lower(state, batch, wishes)
    progress(f"traced in {time.perf_counter() - start:.0f} s, compiling")
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        space, kernel = space_in(str(error)), kernel_in(str(error))
        if kernel is not None:
            raise UserError(kernel) from error
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
    if not found or _EXHAUSTED not in message:
        return None
    number, unit, other, its_unit = (text for text in found.groups() if text is not None)
    return int(float(number) * _UNITS[unit]), int(float(other) * _UNITS[its_unit])


def kernel_in(message: str) -> str | None:
    """Returns a sentence on the kernel that is too large for a core, of which an error tells.

    Args:
      message: the error's text; None is returned where it is about something else.
    """
    memory = _OF_A_CORE.search(message)
    if not memory or _EXHAUSTED not in message:
        return None
    named = _KERNEL.search(message)
    kernel = (named[1] or named[2]) if named else "a kernel"
    said = message.removeprefix(f"{_EXHAUSTED}: ").splitlines()[0].split(" :: ")[0].rstrip(".")
    return (
        f"{kernel} takes more {memory[1].upper()} than a core of the chip has ({said}): a kernel's "
        "blocks have to be smaller; --config.model.attn_backend=xla does without those of "
        "attention"
    )
