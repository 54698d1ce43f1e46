"""What compiling ahead found: numbers for programs, lines for people."""

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

from vit_jax.ahead.collectives import KINDS, Collective
from vit_jax.ahead.roofline import Roofline
from vit_jax.training.report import bytes_text


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
      mesh: devices along each axis.
      parameters: number of all, of which `trained` are trained.
      trained: number.
      batch: images a step.
      accumulate_steps: in how many parts, one after the other.
      state_bytes: of parameters, optimizer state and averages, a device.
      compile_seconds: that tracing and compiling took.
      fits: whether the compiler found room.
      capacity: bytes of the device's memory, None where it is not known.
      needed: bytes that the step takes on a device; where it does not fit, of temporaries at least.
      memory: how they are made up; None where it does not fit, as all that follows.
      flops: of matrix products and convolutions in the program, a device.
      model_flops: what model and objective need for the batch, a device, counted on paper.
      forward_flops: of one image's forward pass, counted on paper.
      bytes_accessed: read and written in the device's memory.
      collectives: by kind.
      largest: the collectives that send most.
      roofline: None also where the device's rates are not known.
      notes: what the numbers leave out.
    """

    model: str
    platform: str
    topology: str | None
    device_kind: str
    devices: int
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
    largest: tuple[Collective, ...] = ()
    roofline: Roofline | None = None
    notes: tuple[str, ...] = ()

    @property
    def sent(self) -> float | None:
        """Bytes that a device sends in a step; None where the step does not fit."""
        if self.collectives is None:
            return None
        return sum(x.bytes for x in self.collectives.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns everything in dicts, lists, numbers and strings."""
        found = dataclasses.asdict(self)
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
        return "\n".join(f"{name:12}{text}" for name, text in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        where = self.topology or self.platform
        axes = " x ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        trained = "" if self.trained == self.parameters else f", {self.trained:,} trained"
        parts = f" in {self.accumulate_steps} parts" if self.accumulate_steps > 1 else ""
        each = self.batch / self.devices
        return [
            ("model", f"{self.model}: {self.parameters:,} parameters{trained}"),
            ("devices", f"{self.devices} x {self.device_kind} ({where}), {axes}"),
            ("batch", f"{self.batch:,} images a step{parts}, {each:.4g} a device"),
            ("compiled", f"in {self.compile_seconds:.0f} s"),
            *self._memory_lines(),
            *self._compute_lines(),
            *self._collective_lines(),
            *self._roofline_lines(),
            *(("note", note) for note in self.notes),
        ]

    def _memory_lines(self) -> list[tuple[str, str]]:
        of = "" if self.capacity is None else f" of {bytes_text(self.capacity)}"
        if not self.fits:
            over = bytes_text(self.needed - self.capacity)
            needed = bytes_text(self.needed)
            state = bytes_text(self.state_bytes)
            return [
                ("memory", f"DOES NOT FIT: {needed}{of} a device, {over} too many"),
                ("", f"state {state} a device; the compiler counts what does not fit"),
            ]
        memory, lines = self.memory, []
        if self.capacity is None:
            lines.append(("memory", f"{bytes_text(memory.total)} a device"))
        else:
            free = self.capacity - memory.total
            verdict = f"fits, {bytes_text(free)} free" if free >= 0 else "fits by the compiler"
            lines.append(("memory", f"{bytes_text(memory.total)}{of} a device: {verdict}"))
        made_up = (
            f"arguments {bytes_text(memory.arguments)} (state {bytes_text(self.state_bytes)}), "
            f"outputs {bytes_text(memory.outputs)} of which {bytes_text(memory.aliased)} aliased, "
            f"temporaries {bytes_text(memory.temporaries)}, code {bytes_text(memory.code)}"
        )
        return [*lines, ("", made_up)]

    def _compute_lines(self) -> list[tuple[str, str]]:
        lines = []
        if self.flops is not None:
            ratio = self.flops / self.model_flops
            lines = [
                ("compute", f"{_flops_text(self.flops)} a device in the program"),
                ("", f"{_flops_text(self.model_flops)} by the model's own count: x{ratio:.2f}"),
            ]
        images = f"{_flops_text(self.forward_flops)} an image forward"
        lines.append(("" if lines else "compute", images))
        if self.bytes_accessed is not None:
            lines.append(("accessed", f"{bytes_text(self.bytes_accessed)} of memory a device"))
        return lines

    def _collective_lines(self) -> list[tuple[str, str]]:
        if self.collectives is None:
            return []
        names = iter(["collectives"])
        lines = [
            (next(names, ""), f"{kind:20}{x.count:7} a step  {bytes_text(x.bytes):>12} sent")
            for kind, x in self.collectives.items()
        ]
        lines = lines or [("collectives", "none")]
        for x in self.largest:
            arrays = " ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in x.arrays[:3])
            more = "" if len(x.arrays) <= 3 else f" and {len(x.arrays) - 3} more"
            times = "once" if x.times == 1 else f"{x.times} times"
            what = f"{x.kind} of {arrays}{more} among {x.group}, {times}"
            lines.append(("  largest", f"{bytes_text(x.sent)}: {what}"))
            lines.append(("", f"  {_where(x.op_name)}"))
        return lines

    def _roofline_lines(self) -> list[tuple[str, str]]:
        if self.roofline is None:
            return []
        roof = self.roofline
        images = self.batch / roof.seconds
        times = ", ".join(
            f"{name} {_milli(getattr(roof, name))}"
            for name in ("compute", "memory", "interconnect")
        )
        return [
            ("at best", f"{_milli(roof.seconds)} a step ({roof.bound}), {images:,.0f} images/s"),
            ("", times),
            ("", f"{100 * roof.share:.0f} % of the peak rate at most, by the model's own count"),
        ]


def _where(op_name: str) -> str:
    """The end of a path through the traced function, which is what tells layers apart."""
    parts = [part for part in op_name.split("/") if part not in ("while", "body", "closed_call")]
    backward = "backward of " if any("transpose" in part for part in parts) else ""
    return backward + "/".join(parts[-4:]) if parts != [""] else "(the compiler does not say where)"


def _flops_text(count: float) -> str:
    """In the unit that suits it, such as "34.94 GFLOPs"."""
    for unit in ("", "K", "M", "G"):
        if count < 1000:
            return f"{count:.4g} {unit}FLOPs"
        count /= 1000
    return f"{count:.4g} TFLOPs"


def _milli(seconds: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(seconds * 1000))) if seconds > 0 else 0
    return f"{seconds * 1000:.{min(digits, 4)}f} ms"
