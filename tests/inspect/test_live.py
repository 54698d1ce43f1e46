"""What a traced program holds: small functions by hand, and models against `jax.vjp` and XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inspect import tiny
from vit_jax.inspect import live, parts
from vit_jax.inspect.activations import blocks_keep_by_hand, is_plain
from vit_jax.inspect.step import Timeline, timeline
from vit_jax.models.layers.platform import laid_out_for_accelerators

FLOATS = jax.ShapeDtypeStruct((10,), jnp.float32)
BLOCKS = (parts.ATTENTION, parts.MLP, parts.NORMS)


def test_timeline_of_a_chain():
    """One array is made of another: two at a time, 40 bytes each; the argument does not count."""
    program = live.program(lambda x: jnp.cos(jnp.sin(jnp.exp(x))), FLOATS)
    assert live.timeline(program).tolist() == [0, 40, 80, 80]


def test_timeline_holds_what_is_used_later():
    def function(x):
        first = jnp.exp(x)
        return jnp.cos(jnp.sin(first)) + first

    assert max(live.timeline(live.program(function, FLOATS))) == 120


def test_timeline_of_a_loop_holds_what_it_stacks():
    def function(x):
        return jax.lax.scan(lambda c, _: (c + 1, jnp.exp(jnp.sin(c))), x, None, length=5)[1]

    # Five results of 40 bytes, the new carry, the sine and the exponential of a pass.
    assert max(live.timeline(live.program(function, FLOATS))) == 200 + 120


def test_timeline_leaves_out_what_is_ignored():
    program = live.program(lambda x: jnp.outer(x, x).sum(), FLOATS)
    assert max(live.timeline(program)) >= 400
    assert max(live.timeline(program, lambda aval: aval.ndim == 2)) < 100


def test_kept_of_a_product_is_its_factors():
    weights = jax.ShapeDtypeStruct((10, 3), jnp.float32)
    found = live.kept(lambda w, x: (jnp.sum(jnp.exp(x) @ w), {}), weights, FLOATS)
    assert [(x.shape, x.bytes) for x in found] == [((10,), 40)]  # the weights are an argument


@pytest.mark.slow
def test_kept_is_what_vjp_holds():
    """Outside of a trace `jax.vjp` has real arrays: as many bytes, each buffer counted once."""
    step = tiny.traced("vit_tiny_patch16_224", 2)
    arguments = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), step.arguments(2))
    params, *others = arguments
    with laid_out_for_accelerators():
        _, pullback, _ = jax.vjp(lambda p: step.loss(p, *others), params, has_aux=True)
    given = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(arguments)}
    held = {x.unsafe_buffer_pointer(): x.nbytes for x in jax.tree.leaves(pullback)}
    real = sum(size for pointer, size in held.items() if pointer not in given)
    traced = sum(x.bytes for x in step.kept())
    # What differs are copies of small constants, and gains of norms that are reshaped.
    assert abs(real - traced) < 0.01 * traced


def test_a_scan_keeps_what_unrolled_blocks_keep():
    module = tiny.module("vit_tiny_patch16_224")
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    totals = []
    for scan in (False, True):
        own = module.clone(scan=scan)
        params = jax.eval_shape(own.init, jax.random.key(0), image)["params"]

        def loss(params, image, own=own):
            return own.apply({"params": params}, image, train=True).sum(), {}

        totals.append(sum(x.bytes for x in live.kept(loss, params, image)))
    assert totals[0] == totals[1]


@pytest.mark.parametrize(
    "name, dtype", [("vit_tiny_patch16_224", None), ("mae_vit_tiny_patch16", "bfloat16")]
)
def test_blocks_by_hand_exactly(name, dtype):
    """What two more images add to what blocks keep: the formula, to the byte."""
    few, more = (_blocks(tiny.traced(name, rows, dtype=dtype)) for rows in (2, 4))
    module = tiny.module(name, dtype=dtype)
    assert is_plain(module)
    assert more - few == 2 * blocks_keep_by_hand(module)


def _blocks(step):
    kept = step.kept()
    return sum(x.bytes for x in kept if x.part.removeprefix(parts.DECODER) in BLOCKS)


def test_scores_are_told_apart():
    """Two (h, n, n) arrays a block in float32: exponentials and weights."""
    scores = [x for x in tiny.traced("vit_tiny_patch16_224", 2).kept() if x.scores]
    assert [x.shape for x in scores] == [(3, 2, 3, 17, 17)] * 2
    assert {x.part for x in scores} == {parts.ATTENTION}


def test_timeline_grows_with_images_as_it_says():
    step = tiny.traced("mae_vit_tiny_patch16", 2)
    found = timeline(step.gradient(2), step.gradient(4))
    assert found.at(9) == live.timeline(step.gradient(9)).max()


def test_most_is_the_last_that_fits():
    found = Timeline(np.array([100.0, 10.0]), np.array([1.0, 7.0]))
    for memory in (150, 160, 500, 100):
        most = found.most(memory)
        assert found.at(most) <= memory < found.at(most + 1)
    assert found.most(99) == 0


# What XLA lays out, on a CPU in float32. Below the estimate, because it computes element-wise
# operations in place, at most of what is being worked on: not what products need, which
# `dots_saveable` keeps. Above it, because a loop holds the weights of its block once more and
# operands in the layout of its products: with remat, where little else is held, a fourth.
CASES = [
    ("vit_tiny_patch16_224", dict(remat="none")),
    pytest.param("vit_tiny_patch16_224", dict(remat="full"), marks=pytest.mark.slow),
    pytest.param("mae_vit_tiny_patch16", {}, marks=pytest.mark.slow),
    pytest.param("swin_tiny_patch4_window7_224", {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name, fields", CASES)
def test_estimate_against_xla(name, fields):
    rows = 64  # enough for images to be most of it
    step = tiny.traced(name, rows, **fields)
    gradient = jax.jit(jax.value_and_grad(step.loss, has_aux=True))
    with laid_out_for_accelerators():
        lowered = gradient.lower(*step.arguments(rows))
    memory = lowered.compile().memory_analysis()
    held = memory.temp_size_in_bytes + memory.output_size_in_bytes
    estimate = live.timeline(step.gradient(rows)).max()
    assert 0.75 * held < estimate < 1.25 * held
    if fields.get("remat") != "full":
        products = tiny.traced(name, rows, **{**fields, "remat": "dots_saveable"}).kept()
        assert sum(x.bytes for x in products) < held
