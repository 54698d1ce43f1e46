"""What compiling ahead found."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import jax

from vit_jax.ahead.collectives import KINDS, Collective
from vit_jax.ahead.roofline import Roofline
from vit_jax.ahead.text import as_text

# Goes up with every change after which the same program counts differently: a report for programs
# has it, so that results that are kept are known to be of an older one.
ANALYSIS = 2


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on a device.

    Attributes:
      arguments: state, batch and constants.
      outputs: the next state and metrics.
      aliased: outputs that take the place of arguments, because the state is donated.
      temporaries: what is computed on the way and is not kept.
      code: the program itself.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> "Memory":
        """What a compiled program takes, as XLA says it."""
        found = compiled.memory_analysis()
        return cls(
            arguments=found.argument_size_in_bytes,
            outputs=found.output_size_in_bytes,
            aliased=found.alias_size_in_bytes,
            temporaries=found.temp_size_in_bytes,
            code=found.generated_code_size_in_bytes,
        )

    @property
    def total(self) -> int:
        """What a device has to have."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The collectives of one kind in a step: how many, and the bytes that a device sends."""

    count: int
    bytes: float


def traffic(found: Iterable[Collective]) -> dict[str, Traffic]:
    """Returns collectives summed by kind, those that occur."""
    found = list(found)
    sums = {}
    for kind in KINDS:
        these = [x for x in found if x.kind == kind]
        if these:
            sums[kind] = Traffic(sum(x.times for x in these), sum(x.sent for x in these))
    return sums


@dataclasses.dataclass(frozen=True)
class Report:
    """A train step, compiled for devices that need not be attached. "A device" is one of them.

    Attributes:
      model: its name.
      platform: "cpu", "gpu" or "tpu".
      topology: of a TPU.
      device_kind: as JAX names the devices.
      devices: how many.
      slices: of TPUs, that they are of.
      mesh: devices along each axis.
      parameters: number of all, of which `trained` are trained.
      trained: number.
      batch: images a step.
      accumulate_steps: in how many parts, one after the other.
      state_bytes: of parameters, optimizer state and averages, a device.
      compile_seconds: that tracing and compiling took.
      fits: whether the compiler found room.
      capacity: bytes of the device's memory that a program may take, None where it is not known.
      needed: bytes that the step takes on a device; where it does not fit, of temporaries at least.
      memory: how they are made up; None where it does not fit, as all that follows.
      flops: of matrix products and convolutions in the program, a device.
      model_flops: what model and objective need for the batch, a device, counted on paper.
      forward_flops: of one image's forward pass, counted on paper.
      bytes_accessed: read and written in the device's memory.
      collectives: by kind, those within a TPU slice where there are several.
      between_slices: by kind, those from slice to slice.
      largest: the collectives that send most.
      roofline: None also where the device's rates are not known.
      notes: what the numbers leave out.
    """

    model: str
    platform: str
    topology: str | None
    device_kind: str
    devices: int
    slices: int
    mesh: dict[str, int]
    parameters: int
    trained: int
    batch: int
    accumulate_steps: int
    state_bytes: int
    compile_seconds: float
    fits: bool
    capacity: int | None
    needed: int
    model_flops: float
    forward_flops: float
    memory: Memory | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    collectives: dict[str, Traffic] | None = None
    between_slices: dict[str, Traffic] | None = None
    largest: tuple[Collective, ...] = ()
    roofline: Roofline | None = None
    notes: tuple[str, ...] = ()

    @property
    def sent(self) -> float | None:
        """Bytes that a device sends within its slice in a step; None where it does not fit."""
        if self.collectives is None:
            return None
        return sum(x.bytes for x in self.collectives.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns everything in dicts, lists, numbers and strings."""
        found = {"analysis": ANALYSIS, **dataclasses.asdict(self)}
        if self.memory is not None:
            found["memory"]["total"] = self.memory.total
            found["sent"] = self.sent
        if self.roofline is not None:
            found["roofline"] |= {
                name: getattr(self.roofline, name) for name in ("seconds", "bound", "share")
            }
        return found

    def to_json(self) -> str:
        """Returns `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __str__(self) -> str:
        return as_text(self)
