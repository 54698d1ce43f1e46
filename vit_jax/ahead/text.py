"""A report on a compiled train step, for people."""

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vit_jax.training.report import bytes_text

if TYPE_CHECKING:
    from vit_jax.ahead.report import Report, Traffic

Line = tuple[str, str]
_NAME, _TEXT = 12, 68  # columns


def as_text(report: "Report") -> str:
    """Returns a report in lines, each with a name in front of it or below the one that has."""
    return "\n".join(
        f"{name if first else '':{_NAME}}{part}"
        for name, text in _lines(report)
        for first, part in _wrapped(text)
    )


def _wrapped(text: str) -> list[tuple[bool, str]]:
    """The lines of a text, and whether each is the first."""
    parts = textwrap.wrap(text, _TEXT, subsequent_indent="  ", break_on_hyphens=False)
    return [(i == 0, part) for i, part in enumerate(parts)]


def _lines(report: "Report") -> list[Line]:
    where = report.topology or report.platform
    axes = " x ".join(f"{axis}={size}" for axis, size in report.mesh.items())
    trained = "" if report.trained == report.parameters else f", {report.trained:,} trained"
    parts = f" in {report.accumulate_steps} parts" if report.accumulate_steps > 1 else ""
    each = report.batch / report.devices
    return [
        ("model", f"{report.model}: {report.parameters:,} parameters{trained}"),
        ("devices", f"{report.devices} x {report.device_kind} ({where}), {axes}"),
        ("batch", f"{report.batch:,} images a step{parts}, {each:.4g} a device"),
        ("compiled", f"in {report.compile_seconds:.0f} s"),
        *_memory_lines(report),
        *_compute_lines(report),
        *_collective_lines(report),
        *_roofline_lines(report),
        *(("note", note) for note in report.notes),
    ]


def _memory_lines(report: "Report") -> list[Line]:
    of = "" if report.capacity is None else f" of {bytes_text(report.capacity)}"
    if not report.fits:
        over = bytes_text(report.needed - report.capacity)
        needed = bytes_text(report.needed)
        state = bytes_text(report.state_bytes)
        return [
            ("memory", f"DOES NOT FIT: {needed}{of} a device, {over} too many"),
            ("", f"state {state} a device"),
        ]
    memory, lines = report.memory, []
    if report.capacity is None:
        lines.append(("memory", f"{bytes_text(memory.total)} a device"))
    else:
        free = report.capacity - memory.total
        verdict = f"fits, {bytes_text(free)} free" if free >= 0 else "fits by the compiler"
        lines.append(("memory", f"{bytes_text(memory.total)}{of} a device: {verdict}"))
    made_up = (
        f"arguments {bytes_text(memory.arguments)} (state {bytes_text(report.state_bytes)}), "
        f"outputs {bytes_text(memory.outputs)} of which {bytes_text(memory.aliased)} aliased, "
        f"temporaries {bytes_text(memory.temporaries)}, code {bytes_text(memory.code)}"
    )
    return [*lines, ("", made_up)]


def _compute_lines(report: "Report") -> list[Line]:
    lines = []
    if report.flops is not None:
        ratio = report.flops / report.model_flops
        lines = [
            ("compute", f"{_flops_text(report.flops)} a device in the program"),
            ("", f"{_flops_text(report.model_flops)} by the model's own count: x{ratio:.2f}"),
        ]
    images = f"{_flops_text(report.forward_flops)} an image forward"
    lines.append(("" if lines else "compute", images))
    if report.bytes_accessed is not None:
        lines.append(("accessed", f"{bytes_text(report.bytes_accessed)} of memory a device"))
    return lines


def _collective_lines(report: "Report") -> list[Line]:
    if report.collectives is None:
        return []
    lines = _traffic_lines("collectives", report.collectives) or [("collectives", "none")]
    lines += _traffic_lines("to slices", report.between_slices)
    for x in report.largest:
        arrays = " ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in x.arrays[:3])
        more = "" if len(x.arrays) <= 3 else f" and {len(x.arrays) - 3} more"
        times = "once" if x.times == 1 else f"{x.times} times"
        of = " slices" if x.between_slices else ""
        what = f"{x.kind} of {arrays}{more} among {x.group}{of}, {times}"
        lines.append(("  largest", f"{bytes_text(x.sent)}: {what}"))
        lines.append(("", f"  {_where(x.op_name)}"))
    return lines


def _traffic_lines(name: str, sums: Mapping[str, "Traffic"]) -> list[Line]:
    names = iter([name])
    return [
        (next(names, ""), f"{kind:20}{x.count:7} a step  {bytes_text(x.bytes):>12} sent")
        for kind, x in sums.items()
    ]


def _roofline_lines(report: "Report") -> list[Line]:
    if report.roofline is None:
        return []
    roof = report.roofline
    images = report.batch / roof.seconds
    times = ", ".join(
        f"{name} {_milli(getattr(roof, name))}" for name in ("compute", "memory", "interconnect")
    )
    return [
        ("at best", f"{_milli(roof.seconds)} a step ({roof.bound}), {images:,.0f} images/s"),
        ("", times),
        ("", f"{100 * roof.share:.0f} % of the peak rate at most, by the model's own count"),
    ]


def _where(op_name: str) -> str:
    """The end of a path through the traced function, which is what tells layers apart."""
    parts = [part for part in op_name.split("/") if part not in ("while", "body", "closed_call")]
    if parts == [""]:
        return "(the compiler does not say where)"
    backward = "backward of " if any("transpose" in part for part in parts) else ""
    parts = parts[-4:]
    while len(parts) > 1 and len(f"  {backward}{'/'.join(parts)}") > _TEXT:
        parts = parts[1:]
    return backward + "/".join(parts)


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
