"""What a traced function holds in memory: which arrays, for how long.

JAX writes a function down as a program of operations one after the other. What such a program holds
at a time is what it has made and what a later operation still needs. A compiler does not follow it
to the letter: it computes element-wise operations where they are used, in the place of what they
read, which saves arrays, and it copies operands into other layouts, which adds some.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.inspect import parts

Ignored = Callable[[Any], bool]  # of the shape and dtype of an array


def nothing(aval: Any) -> bool:
    """Ignores no array."""
    del aval
    return False


def program(function: Callable[..., Any], *shapes: Any) -> Any:
    """Returns the traced program of a function; nothing is computed.

    Args:
        function: of trees of arrays.
        *shapes: the trees, of `jax.ShapeDtypeStruct`s.
    """
    return jax.make_jaxpr(function)(*shapes).jaxpr


def scores_of(tokens: Sequence[int]) -> Ignored:
    """Returns what ignores the (..., n, n) arrays of attention, of which fused kernels make none.

    Args:
        tokens: every n.
    """
    return lambda aval: (
        aval.ndim > 3 and aval.shape[-1] == aval.shape[-2] and (aval.shape[-1] in tokens)
    )


def timeline(jaxpr: Any, ignored: Ignored = nothing) -> np.ndarray:
    """Returns the bytes that are held at each step of a program, its arguments not counted.

    Args:
        jaxpr: of `program`. The operations of what it calls are steps too; of a loop those of one
            pass, at the end of which its results are there as a whole.
        ignored: arrays that count nothing.
    """
    last = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.invars if not _is_literal(v)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not _is_literal(v)}
    made: dict[Any, int] = {}
    live, steps = 0, [0]
    for i, equation in enumerate(jaxpr.eqns):
        new = {v: _bytes(v.aval, ignored) for v in equation.outvars if v in last}
        stacked = _stacked(equation, new)
        for inner in _called(equation):
            steps += [live + stacked + x for x in timeline(inner, ignored)]
        made |= new
        live += sum(new.values())
        steps.append(live)
        for v in {v for v in equation.invars if not _is_literal(v)}:
            if last[v] == i:
                live -= made.pop(v, 0)
    return np.array(steps)


def _stacked(equation: Any, new: dict[Any, int]) -> int:
    """Bytes of a loop's results that are there from its first pass on: what it stacks."""
    if equation.primitive.name != "scan":
        return 0
    carried = set(equation.outvars[: equation.params["num_carry"]])
    return sum(size for v, size in new.items() if v not in carried)


@dataclasses.dataclass(frozen=True)
class Kept:
    """An array that the forward pass leaves to the backward pass.

    Attributes:
        part: of the model, see `parts`.
        shape: of it; of a loop, of what is kept of all passes.
        dtype: its name.
        bytes: its size.
        scores: whether it is one of attention's (..., n, n) arrays.
    """

    part: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    scores: bool


def kept(
    function: Callable[[Any], Any], params: Any, *others: Any, is_score: Ignored = nothing
) -> list[Kept]:
    """Returns what is kept between the forward and the backward pass of a function.

    These are what `jax.vjp` holds on to, each array once. Arguments, the parameters above all, are
    there anyway and do not count.

    Args:
        function: (params, *others) -> a scalar, and what is not differentiated.
        params: what it is differentiated by, of `jax.ShapeDtypeStruct`s.
        *others: trees of `jax.ShapeDtypeStruct`s.
        is_score: of what shapes attention's weights are.
    """

    def residuals(params: Any, *others: Any) -> Any:
        _, pullback, *_ = jax.vjp(lambda p: function(p, *others), params, has_aux=True)
        return jax.tree.leaves(pullback)

    jaxpr = program(residuals, params, *others)
    given = {*jaxpr.invars, *jaxpr.constvars}
    found: dict[Any, Kept] = {}
    for v in jaxpr.outvars:
        if not _is_literal(v) and v not in given and v not in found:
            size = _bytes(v.aval, nothing)
            part = parts.part_of(_origin(jaxpr, v))
            held = (v.aval.shape, v.aval.dtype.name, size, is_score(v.aval))
            found[v] = Kept(part, *held)
    return list(found.values())


def _origin(jaxpr: Any, variable: Any) -> str:
    """The name stack of the operation that makes a variable, within loops and calls too."""
    equation = next((e for e in jaxpr.eqns if variable in e.outvars), None)
    if equation is None:
        return ""
    stack = str(equation.source_info.name_stack)
    place = equation.outvars.index(variable)
    for inner in _called(equation):
        if len(inner.outvars) == len(equation.outvars) and not _is_literal(inner.outvars[place]):
            made = _carried_from(equation, inner, inner.outvars[place])
            return f"{stack}/{_origin(inner, made)}"
    return stack


def _carried_from(equation: Any, inner: Any, variable: Any) -> Any:
    """What a pass of a loop hands on as a variable that it is given; any other as it is."""
    if equation.primitive.name != "scan" or variable not in inner.invars:
        return variable
    place = inner.invars.index(variable) - equation.params["num_consts"]
    return inner.outvars[place] if 0 <= place < equation.params["num_carry"] else variable


def flops(jaxpr: Any) -> int:
    """Returns what the matrix products and convolutions of a program compute, 2 a multiply-add.

    A loop counts as often as it runs; one whose number of passes depends on data counts once.

    Args:
        jaxpr: of `program`.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval if equation.outvars else None
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * out.size * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out.size * kernel.size // outputs
        times = equation.params["length"] if name == "scan" else 1
        total += times * sum(map(flops, _called(equation)))
    return total


def _called(equation: Any) -> Iterator[Any]:
    """The programs that an operation runs: of calls, loops, checkpoints."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _is_literal(variable: Any) -> bool:
    return hasattr(variable, "val")


def _bytes(aval: Any, ignored: Ignored) -> int:
    if not hasattr(aval, "dtype") or ignored(aval):
        return 0
    return aval.size * aval.dtype.itemsize
