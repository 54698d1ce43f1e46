"""Runs a mapping table: tensors of a file into parameters, and parameters into tensors of a file.

Nothing is passed over. Before the first number moves, every tensor of the file is in a rule or on
the list of those not needed, every parameter is filled exactly once, and every shape is right.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import tqdm

from vit_jax.convert.rules import Axes, Rule, Shape, Table
from vit_jax.convert.tensors import LazyTensor
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


def check_tensors(
    tensors: Mapping[str, LazyTensor], table: Table, shapes: Mapping[str, Shape]
) -> None:
    """Raises `MismatchError` unless the tensors are exactly those that the table expects."""
    expected = expected_shapes(table, shapes)
    optional = {constant.source for constant in table.constants if not constant.required}
    missing = [name for name in expected if name not in tensors and name not in optional]
    strange = [name for name in tensors if name not in expected and not table.ignores(name)]
    shared = [name for name in expected if name in tensors]
    wrong = [
        f"{name} is {tensors[name].shape}, expected {expected[name]}"
        for name in shared
        if tensors[name].shape != expected[name]
    ]
    if not (missing or strange or wrong):
        return _check_constants(tensors, table)
    matching = len(shared) - len(wrong)
    lines = [f"{matching} of {len(tensors)} tensors match the model's {len(expected)}"]
    if wrong:
        lines.append(f"other shapes ({len(wrong)}): {_few(wrong)}")
    if missing:
        lines.append(f"missing ({len(missing)}): {_few(missing)}")
    if strange:
        lines.append(f"not the model's ({len(strange)}): {_few(strange)}")
    raise MismatchError("\n  ".join(lines), matching)


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

    Warns:
        UserWarning: tensors that hold NaN or infinity, by name.
    """
    check_tensors(tensors, table, {path: leaf.shape for path, leaf in leaves.items()})
    broken = []
    # Shows on a terminal, from the second second on.
    for rule in tqdm.tqdm(table.rules, "weights", disable=None, delay=1, leave=False):
        arrays = {name: tensors[name].read() for name in rule.sources}
        broken += [name for name, array in arrays.items() if not np.isfinite(array).all()]
        for path, array in inward(rule, arrays, {p: leaves[p].shape for p in rule.targets}):
            leaves[path][...] = array
    if broken:
        warnings.warn(f"{len(broken)} tensors hold NaN or infinity: {_few(broken)}", stacklevel=2)


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


def _few(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
