"""What a layer keeps for its gradient, and that computing the rest anew changes nothing."""

import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.models.layers.activation import ACTIVATIONS, get_activation
from vit_jax.models.layers.drop import drop_path
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.layers.norm import make_norm
from vit_jax.models.layers.platform import laid_out_for_accelerators
from vit_jax.models.layers.recompute import products, recomputed, recomputed_inside

TOKENS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 32)), jnp.bfloat16)


def kept(module):
    """Shapes and dtypes of what is kept of the tokens for the gradient, traced for accelerators."""
    params = module.init(jax.random.key(0), TOKENS)

    def back(params, x):
        return jax.vjp(module.apply, params, x)[1]

    with laid_out_for_accelerators():
        leaves = jax.tree.leaves(jax.eval_shape(back, params, TOKENS))
    return sorted((x.shape, x.dtype.name) for x in leaves if x.shape[:2] == TOKENS.shape[:2])


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "silu"])
@pytest.mark.parametrize("gated, hidden", [(False, (64,)), (True, (2, 64))])
def test_an_mlp_keeps_what_goes_into_each_of_its_products(activation, gated, hidden):
    """Of the second one: what it is made of, once, and neither that nor the derivative besides."""
    mlp = Mlp(hidden=64, activation=activation, gated=gated, dtype=jnp.bfloat16)
    assert kept(mlp) == sorted(
        [((*TOKENS.shape[:2], *hidden), "bfloat16"), (TOKENS.shape, "bfloat16")]
    )


def test_an_mlp_with_dropout_draws_once():
    """What is dropped is not drawn again: the result of the activation is kept."""
    mlp = Mlp(hidden=64, drop=0.5)
    params = mlp.init(jax.random.key(0), TOKENS)
    with laid_out_for_accelerators():
        jaxpr = jax.make_jaxpr(
            lambda p: jax.grad(lambda p: mlp.apply(p, TOKENS, jax.random.key(1)).sum())(p)
        )(params)
    assert str(jaxpr).count("random_bits") == 2


@pytest.mark.parametrize("kind", ["layernorm", "layernorm_nobias", "rmsnorm"])
def test_a_norm_keeps_what_it_is_given(kind):
    with laid_out_for_accelerators():  # it is chosen where it is made
        norm = make_norm(kind, epsilon=1e-6, dtype=jnp.bfloat16)
    assert kept(norm) == [(TOKENS.shape, "bfloat16")]


def test_stochastic_depth_keeps_a_factor_for_each_example():
    """And not a bit for each element."""
    backward = jax.eval_shape(
        lambda x: jax.vjp(lambda x: drop_path(x, 0.3, jax.random.key(0)), x)[1], TOKENS
    )
    kept = {leaf.shape for leaf in jax.tree.leaves(backward)}
    assert kept == {(TOKENS.shape[0], 1, 1)}


def test_a_kernel_for_gpus_is_kept_as_a_product_is(monkeypatch):
    """cuDNN's, which is traced here without a GPU: forward once, and not again for its result."""
    cudnn = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    for name in ("check_cudnn_version", "check_compute_capability", "check_is_flash_attention"):
        monkeypatch.setattr(cudnn, name, lambda *args, **options: 90300)
    x = jnp.zeros((2, 64, 2, 64), jnp.bfloat16)

    @functools.partial(jax.checkpoint, policy=products)
    def attend(x):
        mixed = jax.nn.dot_product_attention(x, x, x, implementation="cudnn")
        return jnp.tanh(mixed.astype(jnp.float32)).sum()

    text = str(jax.make_jaxpr(jax.grad(attend))(x))
    assert text.count("dot_product_attention_fwd_wrapper[") == 1
    assert text.count("dot_product_attention_bwd_wrapper[") == 1


def test_on_one_cpu_norms_and_products_are_not_computed_anew():
    assert recomputed(jnp.tanh) is jnp.tanh


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_on_one_cpu_an_activation_keeps_what_it_is_given(name):
    """And XLA has to compute it anew: a barrier before it keeps both passes apart."""
    activation = recomputed_inside(get_activation(name))
    x = TOKENS.astype(jnp.float32)
    backward = jax.eval_shape(lambda x: jax.vjp(activation, x)[1], x)
    assert [leaf.shape for leaf in jax.tree.leaves(backward)] == [x.shape]
    text = jax.jit(jax.grad(lambda x: activation(x).sum())).lower(x).as_text()
    assert "optimization_barrier" in text
    np.testing.assert_array_equal(activation(x), get_activation(name)(x))


def test_on_accelerators_an_activation_is_left_to_what_computes_the_rest_anew():
    with laid_out_for_accelerators():
        assert recomputed_inside(jnp.tanh) is jnp.tanh


@pytest.mark.parametrize(
    "name, options",
    [
        ("vit_tiny_patch16_224", dict(proj_drop_rate=0.2, drop_path_rate=0.1)),
        ("vit_tiny_patch16_224", dict(mlp_layer="swiglu", act_layer="silu", scan=True)),
        ("vit_tiny_patch16_224", dict(norm_layer="rmsnorm", remat="dots_saveable")),
        ("swin_tiny_patch4_window7_224", dict()),
    ],
)
def test_numbers_and_gradients_are_the_same(name, options):
    vit = dict(img_size=32, depth=1, embed_dim=24)
    swin = dict(img_size=28, depths=(1,), num_heads=(2,), embed_dim=8)
    small = vit if name.startswith("vit") else swin
    model = vit_jax.create_model(name, num_classes=3, **small, **options)
    size = small["img_size"]
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, size, size, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), images)

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        logits = model.apply({"params": params}, images, train=True, rngs=rngs)
        return jnp.square(logits - 1).sum()

    params = jax.tree.map(lambda x: x + 0.01, variables["params"])  # the head starts at zero
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        expected = jax.jit(jax.value_and_grad(loss))(params)
        with laid_out_for_accelerators():
            found = jax.jit(lambda params: jax.value_and_grad(loss)(params))(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)
