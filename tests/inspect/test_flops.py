"""FLOPs by hand sum to `module.flops()`, which is what the traced forward pass computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inspect import tiny
from vit_jax import models
from vit_jax.inspect import live
from vit_jax.inspect.flops import QUADRATIC, attention_shares, flops_by_hand


def test_parts_sum_to_flops_for_every_name():
    for name in models.list_models():
        module = models.create_model(name)
        assert sum(flops_by_hand(module).values()) == module.flops(), name


@pytest.mark.parametrize("name", tiny.NAMES)
def test_traced_forward_pass_computes_as_much(name):
    """Every matrix product of the program, counted by its shapes."""
    module = tiny.module(name)
    size = np.broadcast_to(module.img_size, 2)
    image = jax.ShapeDtypeStruct((3, *size, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)
    rngs = {"mask": jax.random.key(0)}
    program = live.program(lambda p, x: module.apply(p, x, rngs=rngs), params, image)
    found = live.flops(program)
    if name.startswith("swinv2"):  # the network of relative positions runs once for all images
        once = flops_by_hand(module)["attention: position network"]
        assert found == 3 * (module.flops() - once) + once
    else:
        assert found == 3 * module.flops()


def test_loops_count_as_often_as_they_run():
    unrolled, scanned = (
        live.flops(tiny.traced("vit_tiny_patch16_224", 2, remat=remat).gradient(2))
        for remat in ("none", "full")
    )
    forward = 2 * sum(flops_by_hand(tiny.module("vit_tiny_patch16_224")).values())
    # Backward twice the forward pass, less the gradient by the images, which nobody asks for.
    assert 2.9 * forward < unrolled < 3 * forward
    # With remat the blocks once more, less the last product of each, which nothing needs.
    assert unrolled + 0.6 * forward < scanned < unrolled + forward


def test_half_is_quadratic_where_tokens_are_six_times_the_width():
    """4 n d^2 + 8 n d^2 of the matrices against 2 n^2 d of scores and values: n = 6 d."""
    module = models.create_model(
        "vit_tiny_patch16_224",
        **dict(embed_dim=96, class_token=False, global_pool="avg", num_classes=0),
        **dict(img_size=(16 * 24, 16 * 24), depth=12, num_heads=3),
    )
    found = flops_by_hand(module)
    quadratic = sum(found[name] for name in QUADRATIC)
    blocks = quadratic + found["attention: projections"] + found["MLP"]
    assert quadratic * 2 == blocks
    shares = attention_shares(found)
    assert shares[1] == quadratic / sum(found.values()) < shares[0] < 1


def test_attention_of_twice_the_tokens():
    module = models.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg")
    small, large = flops_by_hand(module, (224, 224)), flops_by_hand(module, (448, 224))
    for name in small:
        times = 1 if name == "head" else 4 if name in QUADRATIC else 2
        assert large[name] == times * small[name], name
