"""The models that have names: what each costs, and where its weights are to be had."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TextIO

from vit_jax import models, naming, printing
from vit_jax.convert.layouts import LAYOUTS, Layout
from vit_jax.convert.layouts.base import DIALECT
from vit_jax.convert.published import published
from vit_jax.errors import UserError
from vit_jax.inspect.parameters import parameters_by_hand
from vit_jax.models.vit import pair

# What Google's .npz files mean, which say neither (`convert.layouts.npz`).
NPZ_DIALECT = {"act_layer": "gelu_tanh", "norm_eps": 1e-6}


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """A model that has a name.

    Attributes:
        name: for `create_model`.
        family: its class.
        parameters: how many.
        flops: of one image's forward pass, 2 for a multiply-add (timm's tables count GMACs, half).
        image_size: height and width in pixels.
        num_classes: outputs of its head, 0 for none.
        weights: ids that `from_pretrained` takes, see `convert.published`.
        layouts: in which its weights may lie that `from_pretrained` reads, see `convert.layouts`.
    """

    name: str
    family: str
    parameters: int
    flops: int
    image_size: tuple[int, int]
    num_classes: int
    weights: tuple[str, ...]
    layouts: tuple[str, ...]


class ModelTable(tuple[ModelRow, ...]):
    """Rows, which print as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return as_text(self)


def model_table(pattern: str = "*") -> ModelTable:
    """Returns what the models that have names cost, in alphabetical order.

        print(vit_jax.model_table("swin*"))

    Nothing is traced: parameters are counted by hand, which tests compare with the real tree of
    every name.

    Args:
        pattern: a shell pattern of names, such as "vit_base*".

    Raises:
        UserError: no name fits; says which are nearest.
    """
    names = naming.matching("model", pattern, models.list_models())
    return ModelTable(map(_row, names))


def _row(name: str) -> ModelRow:
    module = models.create_model(name)
    return ModelRow(
        name=name,
        family=type(module).__name__,
        parameters=sum(parameters_by_hand(module).values()),
        flops=module.flops(),
        image_size=pair(module.img_size),
        num_classes=module.num_classes,
        weights=published(name),
        layouts=layouts_of(module),
    )


def layouts_of(module: models.PlainModule) -> tuple[str, ...]:
    """Returns the names of the layouts that can hold a module's weights, in alphabetical order.

    Those whose mapping table has a place for every parameter. What libraries disagree about without
    a trace in the tensors (`convert.layouts.base.DIALECT`) does not count.
    """
    targets = {}
    for layout in LAYOUTS:
        if layout.module is type(module) and layout.expresses(module):
            found = _targets(layout, module)
            targets[layout.name] = max(found, targets.get(layout.name, frozenset()), key=len)
    every = frozenset().union(*targets.values())
    return tuple(sorted(name for name, held in targets.items() if held == every))


def _targets(layout: Layout, module: models.PlainModule) -> frozenset[str]:
    """Paths of the parameters that a layout has a place for; none where it has not for all."""
    dialects = [module]
    if set(module.field_ranges()) >= DIALECT:
        dialects.append(module.clone(**NPZ_DIALECT))
    for one in dialects:
        try:
            return frozenset(
                path for rule in layout.write_table(one).rules for path in rule.targets
            )
        except UserError:  # it says what there is no place for
            continue
    return frozenset()


def to_json(row: ModelRow) -> str:
    """Returns a row as one line of JSON, in ASCII."""
    return json.dumps(dataclasses.asdict(row))


def as_text(rows: Sequence[ModelRow], whole: bool = True) -> str:
    """Returns a table with a line for each model.

    Args:
        rows: of `model_table`.
        whole: lines end with the ids of weights; else with their number, which fits 80 columns.
    """
    lines = [f"{'model':39}{'params':>10}{'GFLOPs':>10}{'px':>6}  weights"]
    for row in rows:
        sizes = set(row.image_size)
        pixels = "x".join(map(str, row.image_size)) if len(sizes) > 1 else str(sizes.pop())
        numbers = f"{_millions(row.parameters):>10}{row.flops / 1e9:>10,.2f}{pixels:>6}"
        weights = " ".join(row.weights) if whole else _counted(row.weights)
        lines.append(f"{row.name:39}{numbers}  {weights}".rstrip())
    return "\n".join(lines)


def details(row: ModelRow) -> str:
    """Returns all that is known of one model, in lines of 80 columns where ids are not longer."""
    lines = [
        f"{row.name}: {row.family}",
        f"parameters  {row.parameters:,}",
        f"compute     {row.flops / 1e9:,.3f} GFLOPs an image forward, {row.flops / 2e9:,.3f} GMACs",
        f"images      {' x '.join(map(str, row.image_size))} pixels",
        f"classes     {row.num_classes or 'no head'}",
    ]
    layouts = printing.wrapped(f"layouts that are read: {', '.join(row.layouts)}")
    found = [f"  {x}" for x in row.weights] or ["  none that are known here"]
    return "\n".join([*lines, *layouts, "weights:", *found])


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _counted(weights: Sequence[str]) -> str:
    """The number of ids by where they are from, such as "8 timm, 3 hf"."""
    timm = sum(x.startswith("timm/") for x in weights)
    counts = ((timm, "timm"), (len(weights) - timm, "hf"))
    return ", ".join(f"{count} {kind}" for count, kind in counts if count)


def show(rows: Sequence[ModelRow], as_json: bool, output: TextIO | None = None) -> None:
    """Prints rows: one object a line, details of a single one, or a table.

    On a terminal the table fits 80 columns; elsewhere its lines are whole, ids of weights included.
    Whoever reads the output may stop doing so, as `head` does.

    Args:
        rows: of `model_table`.
        as_json: one JSON object a line, see `ModelRow`.
        output: where to; None is standard output.
    """
    output = sys.stdout if output is None else output
    if as_json:
        text = "\n".join(map(to_json, rows))
    elif len(rows) == 1:
        text = details(rows[0])
    else:
        text = as_text(rows, whole=not output.isatty())
    printing.write(text, output)
