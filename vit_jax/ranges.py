"""What a value may be: words for the error, and the test. For values that come from outside.

A number is finite and no bool: NaN, infinity and True are in no range of numbers.
"""

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError


class Range(NamedTuple):
    """What is `expected`, in words, and whether a value `fits`."""

    expected: str
    fits: Callable[[Any], bool]


def check(given: Mapping[str, Any], ranges: Mapping[str, Range], prefix: str = "") -> None:
    """Raises UserError for the first value that is not in its range.

    Args:
      given: values by name; one whose name has no range is not looked at.
      ranges: by name.
      prefix: put before the name in the error, such as "optim.".
    """
    for name, value in given.items():
        if name in ranges and not ranges[name].fits(value):
            raise UserError(f"{prefix}{name} is {value!r}; expected {ranges[name].expected}")


def number(expected: str = "a number", fits: Callable[[Any], bool] = lambda x: True) -> Range:
    """A real number that also satisfies `fits`."""
    return Range(expected, lambda x: _is_number(x) and fits(x))


def whole(least: int | None = None) -> Range:
    """An integer, not below `least`."""
    if least is None:
        return Range("a whole number", _is_whole)
    return Range(f"a whole number, {least} or more", lambda x: _is_whole(x) and x >= least)


def one_of(names: Iterable[Any]) -> Range:
    """One of a few values."""
    names = tuple(names)
    return Range(f"one of {', '.join(map(repr, names))}", lambda x: x in names)


def several(of: Range, count: int | None = None) -> Range:
    """A tuple or list of `count` entries (None: of any number), each in the range `of`."""
    entries = "entries" if count is None else f"{count} entries"

    def fits(x: Any) -> bool:
        is_row = isinstance(x, tuple | list) and count in (None, len(x))
        return is_row and all(map(of.fits, x))

    return Range(f"a tuple of {entries}, each {of.expected}", fits)


def filled(of: Range) -> Range:
    """A tuple or list of one entry or more, each in the range `of`."""
    row = several(of)
    return Range(f"{row.expected}, not empty", lambda x: row.fits(x) and len(x) > 0)


def either(*ranges: Range) -> Range:
    """What is in one of several ranges."""
    words = ", or ".join(range.expected for range in ranges)
    return Range(words, lambda x: any(range.fits(x) for range in ranges))


def or_none(of: Range) -> Range:
    """What is in the range `of`, or None."""
    return either(of, NONE)


def of_type(annotation: Any) -> Range:
    """What an annotation allows: a plain type, a tuple, a Literal or a union of them.

    A whole number is also a `float`. Any other annotation allows everything.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return either(*map(of_type, parts))
    if origin is typing.Literal:
        return one_of(parts)
    if origin is tuple:
        endless = parts[-1] is Ellipsis
        return several(of_type(parts[0]), None if endless else len(parts))
    return _OF_PLAIN_TYPE.get(annotation, Range("anything", lambda x: True))


@functools.cache
def of_fields(dataclass: type) -> dict[str, Range]:
    """What the annotations of a dataclass allow its fields to be."""
    return {field.name: of_type(field.type) for field in dataclasses.fields(dataclass)}


def _is_number(x: Any) -> bool:
    try:
        return isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x)
    except OverflowError:  # a whole number beyond what a float can hold
        return False


def _is_whole(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _is_float_dtype(x: Any) -> bool:
    if not isinstance(x, type | np.dtype):  # NumPy has many more spellings, None for one
        return x in _FLOATS
    try:
        return jnp.dtype(x).name in _FLOATS
    except TypeError:  # a type that is no dtype
        return False


_FLOATS = ("bfloat16", "float16", "float32", "float64")

NONE = Range("None", lambda x: x is None)
PATTERNS = Range(
    "a tuple of names or patterns, as ('head/*',)",
    lambda x: isinstance(x, tuple | list) and all(isinstance(name, str) for name in x),
)
TEXT = Range("text", lambda x: isinstance(x, str))
TRUE_OR_FALSE = Range("True or False", lambda x: isinstance(x, bool))
POSITIVE = number("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = number("a number, 0 or more", lambda x: x >= 0)
RATE = number("a number, 0 <= x < 1", lambda x: 0 <= x < 1)
FRACTION = number("a number, 0 <= x <= 1", lambda x: 0 <= x <= 1)
FLOAT_DTYPE = Range(f"a floating-point dtype, one of {', '.join(_FLOATS)}", _is_float_dtype)

_OF_PLAIN_TYPE = {
    int: whole(),
    float: number(),
    bool: TRUE_OR_FALSE,
    str: TEXT,
    types.NoneType: NONE,
}
