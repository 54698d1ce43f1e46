"""What the PyTorch contenders share: devices, precision, compilation, and the update."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import torch

from contenders import Steps, Work

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def images_of(work: Work) -> torch.Tensor:
    """Random images, normalised, in PyTorch's order of axes."""
    return torch.randn(work.batch, 3, work.image_size, work.image_size, device=DEVICE)


def steps_of(
    work: Work, model: torch.nn.Module, loss: Callable[[Any], torch.Tensor], compiled: bool
) -> Steps:
    """Steps of forward passes, or of updates by AdamW.

    Args:
        work: what is done.
        model: takes images.
        loss: of what the model returns; of no effect for forward passes.
        compiled: whether the model goes through `torch.compile`.
    """
    model = model.to(DEVICE)
    images = images_of(work)
    call = torch.compile(model) if compiled else model
    lower = work.dtype != "float32"
    precision = (
        torch.autocast(DEVICE, getattr(torch, work.dtype)) if lower else contextlib.nullcontext()
    )
    if work.kind == "forward":
        model.eval()
        return _forward(lambda: call(images), precision)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.0, fused=DEVICE == "cuda"
    )

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision:
            value = loss(call(images))
        value.backward()
        optimizer.step()

    return _repeated(update)


def cross_entropy(work: Work) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mean cross-entropy of logits, all labels being 0."""
    labels = torch.zeros(work.batch, dtype=torch.long, device=DEVICE)
    return lambda logits: torch.nn.functional.cross_entropy(logits, labels)


def _forward(call: Callable[[], Any], precision: Any) -> Steps:
    def once() -> None:
        with torch.inference_mode(), precision:
            call()

    return _repeated(once)


def build(work: Work, variant: str, checkout: pathlib.Path | None) -> Steps:
    """Products of square matrices: PyTorch's ceiling."""
    x = torch.randn(work.batch, work.batch, device=DEVICE, dtype=getattr(torch, work.dtype))
    return _repeated(lambda: x @ x)


def _repeated(once: Callable[[], Any]) -> Steps:
    def steps(count: int) -> None:
        for _ in range(count):
            once()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return steps
