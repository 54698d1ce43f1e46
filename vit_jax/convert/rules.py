"""The language of mapping tables: pairs of names, and how one array becomes the other.

A rule says how tensors of a file (sources) and leaves of our parameters (targets) hold the same
numbers. How axes correspond is an einops pattern, read from left to right on the way in and from
right to left on the way out, so one table serves both directions:

    same("blocks.0.attn.qkv.weight", "encoder/blocks_0/attn/qkv/kernel", "(k h c) d -> d k h c")

The right side names every axis of the target by itself; all sizes follow from the target's shape.

| rule | on the way in |
|---|---|
| `same` | one source is one target |
| `stacked` | several sources of one shape, stacked along a new first axis, are one target |
| `joined` | one source, cut along its first axis, is several targets |
| `constant` | a source that always holds known numbers: checked, not kept, written on the way out |
| `ignored` | a source that is not needed, and why; not written on the way out |
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from vit_jax.errors import UserError

Shape = tuple[int, ...]

_AXIS = r"(?:1|[A-Za-z](?:\w*[A-Za-z0-9])?)"
_GROUP = rf"(?:{_AXIS}|\({_AXIS}(?: {_AXIS})*\))"
_PATTERN = re.compile(rf"{_GROUP}(?: {_GROUP})* -> {_AXIS}(?: {_AXIS})*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Sources and targets that hold the same numbers; made by `same`, `stacked` and `joined`.

    Attributes:
        sources: names in the file.
        targets: paths in our parameters, as "encoder/blocks_0/norm1/scale".
        patterns: for each target, an einops pattern from source axes to target axes.
        kind: which of the three it is.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    patterns: tuple[str, ...]
    kind: Literal["same", "stacked", "joined"]


@dataclasses.dataclass(frozen=True)
class Constant:
    """A source whose numbers are known beforehand.

    Attributes:
        source: name in the file.
        value: gives the numbers.
        required: the file must hold it.
        free: the file may hold other numbers, as no result depends on them.
    """

    source: str
    value: Callable[[], np.ndarray]
    required: bool = True
    free: bool = False


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Sources that are not needed.

    Attributes:
        pattern: a shell pattern that their names match.
        reason: why they are not.
    """

    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Table:
    """How the tensors of one layout and the parameters of one module correspond.

    Attributes:
        rules: each source in one of them, each target in one of them.
        constants: sources with known numbers.
        ignored: sources that are not needed.
    """

    rules: tuple[Rule, ...]
    constants: tuple[Constant, ...] = ()
    ignored: tuple[Ignored, ...] = ()

    @property
    def sources(self) -> list[str]:
        """Every name that a file must hold, in the order of the rules."""
        names = [name for rule in self.rules for name in rule.sources]
        return names + [constant.source for constant in self.constants if constant.required]

    @property
    def targets(self) -> list[str]:
        """Every path that the table fills, in the order of the rules."""
        return [path for rule in self.rules for path in rule.targets]

    def ignores(self, source: str) -> bool:
        """Whether `source` is on the list of those not needed."""
        return any(fnmatch.fnmatchcase(source, ignored.pattern) for ignored in self.ignored)


def same(source: str, target: str, pattern: str | None = None) -> Rule:
    """One source is one target; without a pattern, axis for axis."""
    return Rule((source,), (target,), (pattern or "... -> ...",), "same")


def stacked(sources: Sequence[str], target: str, pattern: str) -> Rule:
    """Sources of one shape are one target; the pattern's first axis counts the sources."""
    return Rule(tuple(sources), (target,), (pattern,), "stacked")


def joined(source: str, targets: Mapping[str, str]) -> Rule:
    """One source is several targets one after the other along its first axis.

    Args:
        source: name in the file.
        targets: for each target, in order, the pattern of its part of the source.
    """
    return Rule((source,), tuple(targets), tuple(targets.values()), "joined")


def prefixed(rules: Iterable[Rule], source: str = "", target: str = "") -> list[Rule]:
    """The rules with something in front of each source's and each target's name."""
    return [
        dataclasses.replace(
            rule,
            sources=tuple(source + name for name in rule.sources),
            targets=tuple(target + path for path in rule.targets),
        )
        for rule in rules
    ]


class Axes:
    """An einops pattern with its sizes known from the shape of the target.

    Args:
        pattern: "left -> right", every axis of the right side by itself, or "... -> ...".
        target: shape of the target.

    Raises:
        UserError: it is no such pattern, or does not fit the target's shape.
    """

    def __init__(self, pattern: str, target: Shape) -> None:
        _check_pattern(pattern)
        self.left, self.right = pattern.split(" -> ")
        self.target = target
        self.sizes: dict[str, int] = {}
        if self.left == self.right == "...":
            self.source = target
            return
        names = self.right.split()
        wide = [size for name, size in zip(names, target) if name == "1" and size != 1]
        if len(names) != len(target) or wide:
            raise UserError(
                f"pattern {pattern!r} does not fit a parameter of shape {target}: its right side "
                f"names {len(names)} axes one by one"
                + (f", and calls one of {wide[0]} entries 1" if wide else "")
            )
        self.sizes = {name: size for name, size in zip(names, target) if not name.isdecimal()}
        self.source = tuple(self._size(group) for group in _groups(self.left))

    def _size(self, group: list[str]) -> int:
        return math.prod(self.sizes[name] for name in group if not name.isdecimal())

    def inward(self, array: np.ndarray) -> np.ndarray:
        """From the source's axes to the target's; a view wherever one exists."""
        return self._rearrange(array, f"{self.left} -> {self.right}")

    def outward(self, array: np.ndarray) -> np.ndarray:
        """From the target's axes to the source's."""
        return self._rearrange(array, f"{self.right} -> {self.left}")

    def _rearrange(self, array: np.ndarray, pattern: str) -> np.ndarray:
        if not self.sizes:
            return array
        import einops

        return einops.rearrange(array, pattern, **self.sizes)


def _check_pattern(pattern: str) -> None:
    """Raises UserError unless the pattern takes each axis of one side to one of the other."""
    if pattern == "... -> ...":
        return
    if not _PATTERN.fullmatch(pattern):
        raise UserError(
            f"pattern {pattern!r} is none: expected axes with one space between them, those of the "
            'tensor, " -> ", those of the parameter, as "(h c) d -> d h c"'
        )
    left, right = (re.findall(r"[A-Za-z]\w*", side) for side in pattern.split(" -> "))
    if sorted(left) != sorted(set(right)) or len(right) != len(set(right)):
        raise UserError(f"pattern {pattern!r} must have the same axes on both sides, each once")


def _groups(side: str) -> list[list[str]]:
    """Splits a side: "(k h c) d" becomes [["k", "h", "c"], ["d"]]."""
    groups: list[list[str]] = []
    opened = False
    for token in side.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            opened = True
            groups.append([])
        elif token == ")":
            opened = False
        elif opened:
            groups[-1].append(token)
        else:
            groups.append([token])
    return groups
