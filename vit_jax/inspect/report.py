"""What an inspection found."""

import dataclasses
import json
from typing import Any

from vit_jax.inspect.text import as_text

Counts = dict[str, int]


@dataclasses.dataclass(frozen=True)
class AtSize:
    """What a forward pass costs on images of one size.

    Attributes:
        image_size: height and width in pixels.
        tokens: that the first blocks work on.
        flops: of one image, 2 for a multiply-add.
        attention: share of all attention in it: projections, scores and values.
        quadratic: share of what grows with the square of the tokens: scores and values.
    """

    image_size: tuple[int, int]
    tokens: int
    flops: int
    attention: float
    quadratic: float


@dataclasses.dataclass(frozen=True)
class State:
    """Bytes that a device holds between steps.

    Attributes:
        params: the parameters, those that are not trained too.
        moments: the optimizer's state.
        average: the running average of the parameters; 0 where the run keeps none.
        other: what the objective carries along.
    """

    params: int
    moments: int
    average: int
    other: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.params + self.moments + self.average + self.other


@dataclasses.dataclass(frozen=True)
class Fit:
    """How many images a device takes at once, with a margin for what the estimate leaves out.

    Attributes:
        chip: its name.
        memory: bytes that it has.
        usable: bytes of these that a program gets, see `chips`.
        train: images of a step of training, 0 where the state alone does not fit.
        predict: images of a prediction, with the parameters alone.
        fused: whether attention is a fused kernel there, which never holds its weights.
    """

    chip: str
    memory: float
    usable: float
    train: int
    predict: int
    fused: bool


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A model and its training step. "A device" is one of the mesh; sizes are in bytes.

    Attributes:
        source: what was inspected.
        model: its name.
        image_size: height and width in pixels.
        tokens: that the first blocks work on.
        dtype: that is computed in.
        remat: what blocks keep, see `layers.encoder`.
        optimizer: its name.
        parameters: by part, from the real tree.
        trained: how many of them are trained.
        flops: of one image's forward pass by part, 2 for a multiply-add.
        training_flops: of one image's forward and backward pass in the traced program, with what
            rematerialisation computes anew.
        sizes: the same at other resolutions.
        mesh: devices along each axis.
        batch: images an update, over all devices.
        rows: of these, what a device computes at once.
        state: that a device holds between steps.
        gradients: of the parameters, on a device.
        kept: for the backward pass, by part.
        kept_by_remat: the same in all, for other choices of `remat`.
        kept_by_hand: of the blocks in `kept`, by the formula; None where blocks are not plain
            ones, or not all is trained.
        peak: the most that a step holds beside the state: what is kept, gradients, and what is
            being worked on.
        fused_peak: the same where attention is a fused kernel, see `Fit.fused`.
        forward_peak: the most that a prediction for as many images holds beside the parameters.
        fits: for common chips.
        notes: what the numbers leave out.
    """

    source: str
    model: str
    image_size: tuple[int, int]
    tokens: int
    dtype: str
    remat: str
    optimizer: str
    parameters: Counts
    trained: int
    flops: Counts
    training_flops: float
    sizes: tuple[AtSize, ...]
    mesh: Counts
    batch: int
    rows: int
    state: State
    gradients: int
    kept: Counts
    kept_by_remat: Counts
    kept_by_hand: int | None
    peak: int
    fused_peak: int
    forward_peak: int
    fits: tuple[Fit, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """What a step takes on a device."""
        return self.state.total + self.peak

    def to_dict(self) -> dict[str, Any]:
        """Returns everything in dicts, lists, numbers and strings."""
        found = dataclasses.asdict(self)
        found["state"]["total"] = self.state.total
        sums = {name: sum(found[name].values()) for name in ("parameters", "flops", "kept")}
        return found | {"totals": {**sums, "step": self.total}}

    def to_json(self) -> str:
        """Returns `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return as_text(self)
