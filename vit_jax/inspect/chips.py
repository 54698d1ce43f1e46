"""Common chips and the memory that a step may take on each."""

import dataclasses
import math
import os
from types import SimpleNamespace

from vit_jax.errors import UserError
from vit_jax.training import hardware

# Of a GPU JAX takes three quarters when it starts, unless this variable says another share
# (docs.jax.dev, "GPU memory allocation").
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
GPU_FRACTION = 0.75
# What a step takes beside the state is counted so much larger for the answer what fits. The
# compiler of TPUs lays out as much of the estimate as docs/inspect.md says
# (benchmarks/results/inspect_tpu.json): more for masked autoencoders and where a part of a model is
# trained, and most for windows, whose 49 tokens and heads of 32 channels it pads to whole tiles.
MARGIN = 1.4
WIDE_MARGIN = 2.0
WINDOWS_MARGIN = 3.0


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device as JAX counts them.

    Attributes:
        name: as people call it.
        platform: "gpu" or "tpu".
        memory: bytes that it has.
        for_a_program: bytes of it that the compiler has, where that is known, as of TPUs.
    """

    name: str
    platform: str
    memory: float
    for_a_program: float | None = None

    @property
    def usable(self) -> float:
        """Bytes of it that a program gets: of a GPU see `FRACTION`."""
        known = self.for_a_program
        return self.memory * _gpu_fraction() if known is None else known


def _gpu_fraction() -> float:
    """The share of a GPU that JAX takes; more than 1 takes memory of the host too.

    Raises:
        UserError: the variable holds no such number.
    """
    text = os.environ.get(FRACTION, str(GPU_FRACTION))
    try:
        fraction = float(text)
    except ValueError:
        fraction = math.nan
    if not 0 < fraction < math.inf:
        raise UserError(f"{FRACTION} is {text!r}: expected a number above 0, such as 0.9")
    return fraction


def _known(name: str, platform: str, kind: str) -> Chip:
    """A chip whose rates `training.hardware` has, by the name that JAX gives to the device."""
    found = hardware.chip(SimpleNamespace(device_kind=kind))
    return Chip(name, platform, found.memory, found.usable)


# T4 and RTX 4090 are not in that table: the first has no bfloat16, and of neither does a recipe
# here need the rates. Their memory is that of NVIDIA's data sheets.
CHIPS = (
    Chip("T4", "gpu", 16e9),
    Chip("RTX 4090", "gpu", 24e9),
    _known("A100 40GB", "gpu", "NVIDIA A100-SXM4-40GB"),
    _known("L40S", "gpu", "NVIDIA L40S"),
    _known("A100 80GB", "gpu", "NVIDIA A100-SXM4-80GB"),
    _known("H100", "gpu", "NVIDIA H100 80GB HBM3"),
    _known("H200", "gpu", "NVIDIA H200"),
    _known("TPU v3 (core)", "tpu", "TPU v3"),
    _known("TPU v4", "tpu", "TPU v4"),
    _known("TPU v5e", "tpu", "TPU v5e"),
    _known("TPU v5p", "tpu", "TPU v5p"),
    _known("TPU v6e", "tpu", "TPU v6e"),
)
