"""The language of mapping tables: every rule is a bijection between sources and targets."""

import ml_dtypes
import numpy as np
import pytest

from vit_jax.convert.mapping import MismatchError, expected_shapes, fill, outward
from vit_jax.convert.rules import (
    Axes,
    Constant,
    Ignored,
    Rule,
    Table,
    joined,
    prefixed,
    same,
    stacked,
)
from vit_jax.convert.tensors import FLOATS, LazyTensor
from vit_jax.errors import UserError

FLOAT8 = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


def lazy(array):
    array = np.asarray(array)
    return LazyTensor(array.shape, array.dtype, lambda: array)


def random_pattern(rng, axes):
    """A pattern over `axes` names: the left side permutes them, and groups neighbours."""
    names = [f"x{i}" for i in range(axes)]
    left, groups = list(rng.permutation(names)), []
    while left:
        size = int(rng.integers(1, len(left) + 1))
        group, left = left[:size], left[size:]
        groups.append(f"({' '.join(group)})" if size > 1 else group[0])
    return f"{' '.join(groups)} -> {' '.join(names)}"


@pytest.mark.parametrize("seed", range(40))
def test_a_pattern_is_undone_by_its_reverse(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, size=rng.integers(1, 6)).tolist())
    axes = Axes(random_pattern(rng, len(shape)), shape)
    source = rng.normal(size=axes.source)
    target = axes.inward(source)
    assert target.shape == shape
    assert axes.outward(target).tobytes() == source.tobytes()
    assert sorted(target.ravel()) == sorted(source.ravel())


def test_what_patterns_mean():
    """Against the reshapes that PyTorch's own code does with a packed `qkv` weight."""
    d, h, c = 6, 2, 3
    weight = np.arange(3 * h * c * d).reshape(3 * h * c, d)
    ours = Axes("(k h c) d -> d k h c", (d, 3, h, c)).inward(weight)
    x = np.random.default_rng(0).normal(size=(4, d))
    theirs = (x @ weight.T).reshape(4, 3, h, c)  # as timm's Attention.forward
    np.testing.assert_allclose(np.einsum("nd,dkhc->nkhc", x, ours), theirs)


def random_table(rng):
    """Targets of random shapes and a rule of every kind, on random patterns."""
    shapes, rules = {}, []

    def target(first=None):
        path = f"t{len(shapes)}"
        rest = rng.integers(1, 5, size=rng.integers(1, 4)).tolist()
        shapes[path] = tuple(rest if first is None else [first, *rest])
        return path

    for i in range(3):
        path = target()
        rules.append(same(f"s{i}", path, random_pattern(rng, len(shapes[path]))))
    count = int(rng.integers(1, 4))
    path = target(count)
    names = [f"x{i}" for i in range(len(shapes[path]))]
    moved = [names[1:], names[:1]]
    shapes[path] = (*shapes[path][1:], count)  # the axis that counts is the last of the target's
    right = " ".join(f"y{i}" for i in range(len(names)))
    left = " ".join([f"y{len(names) - 1}", *(f"y{i}" for i in range(len(names) - 1))])
    assert moved
    rules.append(stacked([f"k{i}" for i in range(count)], path, f"{left} -> {right}"))
    width, parts = int(rng.integers(1, 5)), {}
    for _ in range(3):
        path = target()
        shapes[path] = (width, int(rng.integers(1, 5)))
        parts[path] = "m d -> d m"
    rules.append(joined("j", parts))
    return Table(tuple(rules)), shapes


@pytest.mark.parametrize("seed", range(20))
def test_a_table_is_undone_by_its_reverse(seed):
    rng = np.random.default_rng(seed)
    table, shapes = random_table(rng)
    sources = {n: rng.normal(size=s) for n, s in expected_shapes(table, shapes).items()}
    leaves = {path: np.empty(shape) for path, shape in shapes.items()}
    fill({name: lazy(array) for name, array in sources.items()}, table, leaves)
    back = {name: tensor.read() for name, tensor in outward(leaves, table).items()}
    assert {n: (a.shape, a.tobytes()) for n, a in back.items()} == {
        n: (a.shape, a.tobytes()) for n, a in sources.items()
    }
    again = {path: np.empty(shape) for path, shape in shapes.items()}
    fill({name: lazy(array) for name, array in back.items()}, table, again)
    assert all(np.array_equal(again[path], leaves[path]) for path in shapes)


@pytest.mark.parametrize(
    "table, shapes, message",
    [
        (Table((same("a", "x"),)), {"x": (2,), "y": (2,)}, "parameter in no rule: y"),
        (Table((same("a", "x"), same("b", "x"))), {"x": (2,)}, "parameter in two rules: x"),
        (Table((same("a", "z"),)), {"x": (2,)}, "unknown parameter: z"),
        (Table((same("a", "x"), same("a", "y"))), {"x": (2,), "y": (2,)}, "tensor in two rules: a"),
        (Table((same("a", "x", "o i -> i o"),)), {"x": (2,)}, "does not fit a parameter"),
        (
            Table((stacked(["a", "b"], "x", "k d -> k d"),)),
            {"x": (3, 4)},
            "2 sources cannot make 'x'",
        ),
    ],
)
def test_a_table_that_is_not_one_to_one(table, shapes, message):
    with pytest.raises(UserError, match=message):
        expected_shapes(table, shapes)


def test_constants_are_checked_written_and_not_kept():
    def ones():
        return np.ones(3, np.float32)

    table = Table(
        (same("w", "x"),),
        (
            Constant("mask", ones),
            Constant("counter", lambda: np.arange(2)),
            Constant("free", ones, required=False, free=True),
        ),
        (Ignored("text.*", "belongs to another tower"),),
    )
    w = np.full(2, 5, np.float16)
    given = {"w": w, "mask": np.ones(3), "counter": np.arange(2), "text.a": w}
    leaves = {"x": np.empty(2, np.float16)}
    fill({k: lazy(v) for k, v in given.items()}, table, leaves)
    written = {name: tensor.read() for name, tensor in outward(leaves, table).items()}
    assert {name: (str(a.dtype), a.tolist()) for name, a in written.items()} == {
        "w": ("float16", [5, 5]),
        "mask": ("float16", [1, 1, 1]),  # in the dtype of the parameters
        "counter": ("int64", [0, 1]),
        "free": ("float16", [1, 1, 1]),
    }
    with pytest.raises(UserError, match="mask holds other numbers"):
        fill({k: lazy(v) for k, v in {**given, "mask": np.zeros(3)}.items()}, table, leaves)
    with pytest.raises(UserError, match=r"missing \(1\): counter"):
        fill({k: lazy(v) for k, v in given.items() if k != "counter"}, table, leaves)


@pytest.mark.parametrize("rule", ["same", "stacked", "joined"])
@pytest.mark.parametrize(
    "dtype",
    [np.int8, np.int64, np.uint8, np.bool_, np.complex64, *FLOAT8],
    ids=lambda x: x.__name__,
)
def test_what_is_no_floating_point_parameter_is_never_cast(dtype, rule):
    """Whatever its name; a tensor beside the parameters may be anything."""
    rules = {
        "same": same("gamma", "x"),
        "stacked": stacked(["gamma", "b"], "x", "k d -> k d"),
        "joined": joined("gamma", {"x": "d -> d", "y": "d -> d"}),
    }
    shapes = {"x": (2, 2) if rule == "stacked" else (2,)}
    shapes |= {"y": (2,)} if rule == "joined" else {}
    size = 4 if rule == "joined" else 2
    given = {"gamma": np.ones(size).astype(dtype), "b": np.ones(2), "index": np.ones(2, dtype)}
    table = Table((rules[rule],), ignored=(Ignored("index", "counts"), Ignored("b", "unused")))
    leaves = {path: np.zeros(shape) for path, shape in shapes.items()}
    with pytest.raises(MismatchError) as error:
        fill({name: lazy(array) for name, array in given.items()}, table, leaves)
    assert f"gamma is {np.dtype(dtype).name}" in str(error.value)
    assert "float16, bfloat16, float32, float64" in str(error.value)
    assert "load the floating-point weights that they were made from" in str(error.value)
    assert not any(leaf.any() for leaf in leaves.values())
    for kind in FLOATS:
        given["gamma"] = np.ones(size).astype(np.dtype(kind))
        fill({name: lazy(array) for name, array in given.items()}, table, leaves)


def test_prefixes():
    [rule] = prefixed([same("a", "b", "x y -> y x")], "tower.", "encoder/")
    assert rule == Rule(("tower.a",), ("encoder/b",), ("x y -> y x",), "same")
