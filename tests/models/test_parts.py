"""Products of several parts, on meshes: queries, keys and values; gate and value."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax.models.layers.attention import Attention
from vit_jax.models.layers.linear import Linear, split_parts
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.layers.pool import AttentionPool

AXES = ("data", "fsdp", "tensor")
RULES = (("batch", ("data", "fsdp")), ("heads", "tensor"), ("mlp", "tensor"), ("embed", "fsdp"))
MODULES = {
    "attention": Attention(num_heads=4),
    "no bias of keys": Attention(num_heads=4, k_bias=False),
    "gated MLP": Mlp(hidden=24, gated=True, activation="silu"),
    "pool": AttentionPool(num_heads=4, mlp=dict(hidden=24)),
}


def values_and_gradients(module, params, x):
    def loss(params, x):
        y = module.apply(params, x)
        y = y[0] if isinstance(y, tuple) else y
        return jnp.square(y - 1).sum(), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
@pytest.mark.parametrize("name", MODULES)
def test_numbers_and_gradients_are_those_of_one_device(name, sizes, monkeypatch):
    """Where devices split heads or hidden units, and where parts lie side by side in one axis."""
    module, rng = MODULES[name], np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 5, 16)), jnp.float32)
    boxed = module.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), nn.unbox(boxed))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    expected = jax.jit(functools.partial(values_and_gradients, module))(params, x)
    monkeypatch.setattr("vit_jax.models.layers.linear.on_several_tpus", lambda: True)
    mesh = jax.make_mesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    places = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        placed = jax.device_put(params, places)
        found = jax.jit(functools.partial(values_and_gradients, module))(placed, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("axes", [("qkv", "heads", "head_dim"), (None, "mlp"), ("qkv",)])
def test_parts_are_those_that_a_product_gives(axes):
    """Of one number each, too."""
    sizes = (3, 2, 4)[: len(axes)]
    linear = Linear(sizes, ("embed", *axes), parts=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8)), jnp.float32)
    y = linear.apply(linear.init(jax.random.key(0), x), x)
    parts = split_parts(y, axes)
    assert len(parts) == 3
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part, jnp.take(y, i, axis=2))
