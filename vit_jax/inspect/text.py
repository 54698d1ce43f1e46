"""An inspection for people, in 80 columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vit_jax import printing
from vit_jax.training.report import bytes_text

if TYPE_CHECKING:
    from vit_jax.inspect.report import Inspection


def as_text(found: "Inspection") -> str:
    """Returns an inspection in lines."""
    sections = (_heading, _parameters, _compute, _sizes, _memory, _kept, _fits, _notes)
    return "\n\n".join(text for section in sections if (text := "\n".join(section(found))))


def _heading(found: "Inspection") -> Iterator[str]:
    count = sum(found.parameters.values())
    some = "" if found.trained == count else f", {found.trained:,} trained"
    size = " x ".join(map(str, found.image_size))
    yield f"{found.model}: {count:,} parameters{some}"
    tokens = f", {found.tokens:,} tokens" if found.tokens else ""
    yield f"images of {size} pixels{tokens}, computed in {found.dtype}, remat {found.remat}"


def _parameters(found: "Inspection") -> Iterator[str]:
    total = sum(found.parameters.values())
    yield _row("parameters", "count", "share")
    for name, count in [*found.parameters.items(), ("total", total)]:
        yield _row(f"  {name}", f"{count:,}", _share(count, total))


def _compute(found: "Inspection") -> Iterator[str]:
    total = sum(found.flops.values())
    yield _row("compute of one image, forward", "GFLOPs", "share")
    for name, count in [*found.flops.items(), ("total", total)]:
        yield _row(f"  {name}", f"{count / 1e9:,.3f}", _share(count, total))
    ratio = found.training_flops / total
    yield _row("  forward and backward", f"{found.training_flops / 1e9:,.3f}", f"x{ratio:.2f}")
    yield f"  2 FLOPs a multiply-add: {total / 2e9:,.3f} GMACs forward"


def _sizes(found: "Inspection") -> Iterator[str]:
    if not found.tokens:
        return
    yield _columns("image", "tokens", "GFLOPs", "attention", "scores, values")
    for at in found.sizes:
        size = "x".join(map(str, at.image_size))
        shares = (f"{100 * x:.1f} %" for x in (at.attention, at.quadratic))
        yield _columns(f"  {size}", f"{at.tokens:,}", f"{at.flops / 1e9:,.2f}", *shares)


def _memory(found: "Inspection") -> Iterator[str]:
    axes = " x ".join(f"{axis}={size}" for axis, size in found.mesh.items() if size > 1)
    on = f"a device of {axes}" if axes else "one device"
    yield f"memory of a training step, {found.batch:,} images, {found.rows:,} at once on {on}"
    state = found.state
    for name, size in (
        ("parameters", state.params),
        (f"state of {found.optimizer}", state.moments),
        ("running average", state.average),
        ("state of the objective", state.other),
        ("gradients, activations and work (the most at a time)", found.peak),
        ("total", found.total),
    ):
        if size:
            yield _row(f"  {name}", bytes_text(size))
    yield _row("  of the activations, kept for the backward pass", bytes_text(_kept_sum(found)))
    yield _row("  of gradients, once all are there", bytes_text(found.gradients))
    predicts = bytes_text(found.forward_peak)
    yield _row("  a prediction for as many, beside the parameters", predicts)


def _kept_sum(found: "Inspection") -> int:
    return sum(found.kept.values())


def _kept(found: "Inspection") -> Iterator[str]:
    total = _kept_sum(found)
    yield _row("kept for the backward pass", "bytes", "share")
    for name, size in found.kept.items():
        yield _row(f"  {name}", bytes_text(size), _share(size, total))
    if found.kept_by_hand is not None:
        yield _row("  all blocks, by hand", bytes_text(found.kept_by_hand))
    for remat, size in found.kept_by_remat.items():
        yield _row(f"  with remat {remat}", bytes_text(size), _share(size, total))


def _fits(found: "Inspection") -> Iterator[str]:
    yield _columns("chip", "memory", "usable", "training", "prediction")
    for fit in found.fits:
        memory = (f"{x / 1e9:.0f} GB" for x in (fit.memory, fit.usable))
        train = f"{fit.train:,}" if fit.train else "no"
        yield _columns(f"  {fit.chip}", *memory, train, f"{fit.predict:,}" if fit.predict else "no")
    yield "  the most images at once on a device"


def _notes(found: "Inspection") -> Iterator[str]:
    for note in found.notes:
        yield from printing.wrapped(f"note: {note}")


def _row(name: str, value: str, share: str = "") -> str:
    return f"{name:54}{value:>16}{share:>10}".rstrip()


def _columns(name: str, *values: str) -> str:
    widths = (12, 12, 14, 16)
    return f"{name:26}" + "".join(f"{x:>{width}}" for x, width in zip(values, widths))


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
