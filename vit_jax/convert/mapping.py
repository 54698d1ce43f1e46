"""Runs a mapping table: tensors of a file into parameters, and parameters into tensors of a file.

Nothing is passed over. Before the first number moves, every tensor of the file is in a rule or on
the list of those not needed, every parameter is filled exactly once, every shape is right, and
no parameter is stored in a dtype that would have to be scaled.
"""

import dataclasses
import functools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tqdm

from vit_jax.convert.rules import Axes, Rule, Shape, Table
from vit_jax.convert.tensors import FLOATS, LazyTensor
from vit_jax.errors import UserError

SHOWN = 5  # of each kind of disagreement, how many an error lists


class MismatchError(UserError):
    """The tensors of a file are not those of the model.

    Attributes:
        matching: how many tensors have the name and the shape that the model expects.
    """

    def __init__(self, message: str, matching: int = 0) -> None:
        super().__init__(message)
        self.matching = matching


def expected_shapes(table: Table, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of every source, from those of the targets.

    Args:
        table: of a layout and a module.
        shapes: of the module's parameters, by path.

    Raises:
        UserError: the table does not fill each parameter once, uses a source twice, or has a
            pattern that does not fit.
    """
    _check_once("parameter", table.targets, shapes)
    _check_once("tensor", table.sources, set(table.sources))
    expected: dict[str, Shape] = {}
    for rule in table.rules:
        expected.update(_source_shapes(rule, shapes))
    for constant in table.constants:
        expected[constant.source] = constant.value().shape
    return expected


def _check_once(what: str, used: Iterable[str], known: Iterable[str]) -> None:
    counts, known = Counter(used), set(known)
    wrong = {
        f"unknown {what}": sorted(set(counts) - known),
        f"{what} in no rule": sorted(known - set(counts)),
        f"{what} in two rules": sorted(name for name, n in counts.items() if n > 1),
    }
    if any(wrong.values()):
        text = "; ".join(f"{k}: {_few(v)}" for k, v in wrong.items() if v)
        raise UserError(f"the mapping table is not one to one: {text}")


def _source_shapes(rule: Rule, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    axes = [Axes(pattern, shapes[path]) for pattern, path in zip(rule.patterns, rule.targets)]
    first = axes[0].source
    if rule.kind == "same":
        return {rule.sources[0]: first}
    if rule.kind == "stacked":
        if first[0] != len(rule.sources):
            raise UserError(
                f"{len(rule.sources)} sources cannot make {rule.targets[0]!r}: the first axis of "
                f"pattern {rule.patterns[0]!r} has {first[0]} entries"
            )
        return dict.fromkeys(rule.sources, first[1:])
    return {rule.sources[0]: (sum(part.source[0] for part in axes), *first[1:])}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The tensors of a file beside those that a table expects.

    Attributes:
        matching: how many have the name, the shape and a dtype that the model expects.
        given: how many the file has.
        expected: how many the model has.
        dtypes: parameters that are stored in none of `tensors.FLOATS`, "NAME is DTYPE".
        shapes: those of another shape, "NAME is SHAPE, expected SHAPE".
        missing: names that the file lacks.
        strange: names that the model has no place for.
    """

    matching: int
    given: int
    expected: int
    dtypes: tuple[str, ...]
    shapes: tuple[str, ...]
    missing: tuple[str, ...]
    strange: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Nothing differs."""
        return not (self.dtypes or self.shapes or self.missing or self.strange)

    def __str__(self) -> str:
        differences = (
            ("other shapes", self.shapes),
            (f"parameters are in one of {', '.join(FLOATS)}, these are not", self.dtypes),
            ("missing", self.missing),
            ("not the model's", self.strange),
        )
        lines = [f"{self.matching} of {self.given} tensors match the model's {self.expected}"]
        lines += [f"{what} ({len(x)}): {_few(x)}" for what, x in differences if x]
        if self.dtypes:
            lines.append("load the floating-point weights that they were made from")
        return "\n  ".join(lines)


def compare(
    tensors: Mapping[str, LazyTensor], table: Table, shapes: Mapping[str, Shape]
) -> Comparison:
    """How the tensors of a file and those that a table expects differ; none is read.

    Args:
        tensors: of a file.
        table: of a layout and a module.
        shapes: of the module's parameters, by path.

    Raises:
        UserError: see `expected_shapes`.
    """
    expected = expected_shapes(table, shapes)
    optional = {constant.source for constant in table.constants if not constant.required}
    parameters = {name for rule in table.rules for name in rule.sources}
    there = {name: tensors[name] for name in expected if name in tensors}
    wrong = [name for name, x in there.items() if x.shape != expected[name]]
    other = [name for name, x in there.items() if name in parameters and not x.is_float]
    return Comparison(
        matching=len(there.keys() - {*wrong, *other}),
        given=len(tensors),
        expected=len(expected),
        dtypes=tuple(f"{name} is {there[name].dtype}" for name in other),
        shapes=tuple(f"{x} is {there[x].shape}, expected {expected[x]}" for x in wrong),
        missing=tuple(x for x in expected if x not in tensors and x not in optional),
        strange=tuple(x for x in tensors if x not in expected and not table.ignores(x)),
    )


def check_tensors(
    tensors: Mapping[str, LazyTensor], table: Table, shapes: Mapping[str, Shape]
) -> None:
    """Raises `MismatchError` unless the tensors are exactly those that the table expects."""
    found = compare(tensors, table, shapes)
    if not found.ok:
        raise MismatchError(str(found), found.matching)
    _check_constants(tensors, table)


def _check_constants(tensors: Mapping[str, LazyTensor], table: Table) -> None:
    for constant in table.constants:
        if constant.source not in tensors or constant.free:
            continue
        if not np.array_equal(tensors[constant.source].read(), constant.value()):
            raise MismatchError(
                f"{constant.source} holds other numbers than the model's fixed ones, which this "
                "library computes: these weights would give other results here"
            )


def fill(
    tensors: Mapping[str, LazyTensor], table: Table, leaves: MutableMapping[str, np.ndarray]
) -> None:
    """Writes the tensors into the parameters, one tensor at a time.

    Args:
        tensors: of a file.
        table: of its layout and the module.
        leaves: the module's parameters by path, arrays that are written to in place; a view of a
            stacked leaf will do. Their dtype is kept.

    Raises:
        MismatchError: the tensors are not those that the table expects; nothing is written.
        UserError: a tensor has a number that is too large for the dtype of its parameter.

    Warns:
        UserWarning: tensors that hold NaN or infinity, by name.
    """
    check_tensors(tensors, table, {path: leaf.shape for path, leaf in leaves.items()})
    broken = []
    # Shows on a terminal, from the second second on.
    for rule in tqdm.tqdm(table.rules, "weights", disable=None, delay=1, leave=False):
        arrays = {name: tensors[name].read() for name in rule.sources}
        broken += [name for name, array in arrays.items() if not np.isfinite(array).all()]
        for name, array in arrays.items():
            for path in rule.targets:
                check_range(name, array, leaves[path].dtype)
        for path, array in inward(rule, arrays, {p: leaves[p].shape for p in rule.targets}):
            leaves[path][...] = array
    if broken:
        warnings.warn(f"{len(broken)} tensors hold NaN or infinity: {_few(broken)}", stacklevel=2)


def check_range(name: str, array: np.ndarray, dtype: Any) -> None:
    """Raises UserError if a finite number of `array` would become infinity in `dtype`.

    Args:
        name: of the array, for the error.
        array: floating-point numbers of any shape; what is NaN or infinity already may stay so.
        dtype: that it is to be cast to.
    """
    if float(ml_dtypes.finfo(dtype).max) >= float(ml_dtypes.finfo(array.dtype).max):
        return
    # Rounding keeps order: if the largest stays finite, all do.
    largest = np.abs(array[np.isfinite(array)]).max(initial=0)
    with np.errstate(over="ignore"):
        fits = np.isfinite(largest.astype(dtype))
    if not fits:
        raise UserError(
            f"{name} has a number of magnitude {float(largest):.6g}, which is infinity in "
            f"{np.dtype(dtype)}: choose another param_dtype ('float32', or 'source' for that of "
            "the file)"
        )


def inward(
    rule: Rule, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, np.ndarray]]:
    """What one rule makes of its sources: pairs of a target and its array."""
    parts = [arrays[name] for name in rule.sources]
    axes = [Axes(pattern, shapes[path]) for pattern, path in zip(rule.patterns, rule.targets)]
    if rule.kind == "joined":
        ends = np.cumsum([part.source[0] for part in axes])
        parts = np.split(parts[0], ends[:-1])
    elif rule.kind == "stacked":
        parts = [np.stack(parts)]
    for path, part, axis in zip(rule.targets, parts, axes):
        yield path, axis.inward(part)


def outward(leaves: Mapping[str, Any], table: Table) -> dict[str, LazyTensor]:
    """The tensors of a file, in the order of the table; each is made when it is read.

    Args:
        leaves: parameters by path.
        table: of the layout wanted and the module.

    Raises:
        UserError: the table does not take each parameter once.
    """
    shapes = expected_shapes(table, {path: leaf.shape for path, leaf in leaves.items()})
    tensors: dict[str, LazyTensor] = {}
    for rule in table.rules:
        dtype = np.dtype(leaves[rule.targets[0]].dtype)
        for i, name in enumerate(rule.sources):
            read = functools.partial(_source, rule, i, leaves)
            tensors[name] = LazyTensor(shapes[name], dtype, read)
    dtype = next(iter(tensors.values())).dtype
    for constant in table.constants:
        value = constant.value()
        value = value if value.dtype.kind in "iub" else value.astype(dtype)
        read = functools.partial(np.asarray, value)
        tensors[constant.source] = LazyTensor(value.shape, value.dtype, read)
    return tensors


def _source(rule: Rule, index: int, leaves: Mapping[str, Any]) -> np.ndarray:
    """One source of a rule, from the rule's targets."""
    parts = [
        Axes(pattern, leaves[path].shape).outward(np.asarray(leaves[path]))
        for pattern, path in zip(rule.patterns, rule.targets)
    ]
    if rule.kind == "joined":
        return np.concatenate(parts)
    return parts[0][index] if rule.kind == "stacked" else parts[0]


def _few(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
