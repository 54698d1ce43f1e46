"""Kernels for TPUs, interpreted: what they compute, and which is chosen."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental.pallas import tpu as pltpu

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models.layers import attention, attention_tpu, short_attention
from vit_jax.models.layers.encoder import Encoder
from vit_jax.models.layers.platform import laid_out_for_accelerators


def drawn(*shape, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4)]


def values_and_gradients(backend, q, k, v, d_mixed):
    mixed, back = jax.vjp(lambda *x: attention.attend(*x, backend=backend)[0], q, k, v)
    return mixed, *back(d_mixed)


def interpreted():
    """What a block has beyond the tokens, and memory that nothing was written to, is NaN."""
    return pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan"))


@pytest.fixture
def one_kernel(monkeypatch):
    """The kernel of few tokens for any number of them that fits, or flash attention."""

    def choose(name):
        monkeypatch.setattr(attention_tpu, "FLASH_MIN_TOKENS", 0 if name == "flash" else 10**6)

    return choose


@pytest.mark.parametrize("name", ["flash", "few"])
@pytest.mark.parametrize("tokens", [128, 197])
def test_values_and_gradients_are_those_of_the_plain_one(name, tokens, one_kernel):
    """With 197 tokens the padding must not be attended to."""
    one_kernel(name)
    tensors = drawn(1, tokens, 2, 64)
    expected = values_and_gradients("xla", *tensors)
    with interpreted():
        found = values_and_gradients("pallas", *tensors)
    chex.assert_trees_all_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "heads, head_dim, lanes, taken",
    [(5, 8, 128, 5), (4, 64, 128, 2), (32, 8, 128, 16), (3, 80, 256, 3)],
)
def test_heads_of_any_width_are_taken_some_at_once(heads, head_dim, lanes, taken, monkeypatch):
    """As many as fit, if their width is whole registers of 128 numbers, or else all."""
    monkeypatch.setattr(short_attention, "BUDGET", 4 * 4 * 32 * 128 + 14 * 32 * lanes * 4)
    assert short_attention.heads_at_once(20, heads, head_dim, 4) == taken
    tensors = drawn(2, 20, heads, head_dim)
    expected = values_and_gradients("xla", *tensors)
    with interpreted():
        found = values_and_gradients("pallas", *tensors)
    chex.assert_trees_all_close(found, expected, atol=2e-6, rtol=1e-5)


def test_of_bfloat16_scores_and_softmax_are_in_float32():
    """As exact as the plain one on the same inputs, whose result is rounded once more."""
    tensors = drawn(1, 50, 2, 64, dtype=jnp.bfloat16)
    exact = values_and_gradients("xla", *(x.astype(jnp.float32) for x in tensors))
    with interpreted():
        found = values_and_gradients("pallas", *tensors)
    plain = values_and_gradients("xla", *tensors)
    for ours, theirs, expected in zip(found, plain, exact):
        assert ours.dtype == jnp.bfloat16
        off, allowed = (abs(x.astype(jnp.float32) - expected).max() for x in (ours, theirs))
        assert off <= 1.5 * allowed


@pytest.mark.parametrize(
    "tokens, heads, head_dim, itemsize, taken",
    [
        (197, 12, 64, 2, 12),  # ViT-B/16
        (257, 16, 80, 2, 16),  # ViT-H/14
        (257, 16, 104, 2, 16),  # ViT-G/14, whose heads cannot be parted: 104 = 8 * 13
        (257, 16, 120, 2, None),
        (577, 16, 64, 2, 8),  # ViT-L/16 of 384 pixels
        (1024, 12, 64, 2, None),  # the scores of one head are 4 MiB
    ],
)
def test_how_many_heads_fit(tokens, heads, head_dim, itemsize, taken):
    assert short_attention.heads_at_once(tokens, heads, head_dim, itemsize) == taken


def shaped(tokens, heads=12, head_dim=64):
    return jax.ShapeDtypeStruct((2, tokens, heads, head_dim), jnp.bfloat16)


def test_when_a_kernel_pays():
    def pays(query, key, chip="TPU v5 lite"):
        return attention_tpu.a_kernel_pays(query, key, chip)

    assert not pays(shaped(197), shaped(197), "TPU v3")
    assert pays(shaped(197), shaped(197)) and pays(shaped(2048), shaped(2048))
    assert not pays(shaped(1), shaped(197))  # a pooled query has no square of weights
    windows = jax.ShapeDtypeStruct((2, 4, 49, 3, 32), jnp.bfloat16)
    assert not pays(windows, windows)
    half = jax.ShapeDtypeStruct(shaped(197).shape, jnp.float16)  # which TPUs do not multiply
    assert not pays(half, half)
    assert not pays(shaped(900), shaped(900))  # too many for one kernel, too few for the other


def mesh_of(**sizes):
    devices = np.array(jax.devices()[: int(np.prod(list(sizes.values())))])
    axis_types = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.sharding.Mesh(devices.reshape(*sizes.values()), tuple(sizes), axis_types=axis_types)


RULES = (("batch", "data"), ("tokens", "sequence"), ("heads", "tensor"))


def test_of_few_tokens_that_are_split_it_does_not_pay():
    mesh = mesh_of(data=2, sequence=2)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES[:2]):
        assert not attention_tpu.pays_where_it_is_traced(shaped(196), shaped(196))
        assert attention_tpu.pays_where_it_is_traced(shaped(2048), shaped(2048))


def test_on_a_mesh_it_pays_only_if_it_is_known_how_to_split():
    """Of a teacher, whose sizes the rules are not for, or of examples that do not come out even."""
    pays, few, many = attention_tpu.pays_where_it_is_traced, shaped(196), shaped(2048)
    assert not pays(few, few)  # no mesh, and eight devices on any of which the arrays may lie
    with jax.set_mesh(mesh_of(data=1)):
        assert pays(few, few) and pays(many, many)
    with jax.set_mesh(mesh_of(data=4)):
        assert not pays(few, few) and not pays(many, many)
        with nn.logical_axis_rules(RULES[:1]):
            assert not pays(few, few)  # two examples on four devices
    with jax.set_mesh(mesh_of(data=2)), nn.logical_axis_rules(RULES[:1]):
        assert pays(few, few) and pays(many, many)
    with jax.set_mesh(mesh_of(tensor=8)), nn.logical_axis_rules(RULES[2:]):
        assert not pays(few, few)  # twelve heads


def test_it_is_asked_for_the_heads_of_one_device():
    """All 16 of width 104 do not fit with 577 tokens, 4 do."""
    wide = shaped(577, heads=16, head_dim=104)
    assert not attention_tpu.a_kernel_pays(wide, wide, "TPU v4")
    with jax.set_mesh(mesh_of(tensor=4)), nn.logical_axis_rules(RULES[2:]):
        assert attention_tpu.pays_where_it_is_traced(wide, wide)


def test_errors():
    q = jnp.zeros((3, 20, 2, 8))
    uneven = "cannot split 3 examples over 2 devices and 2 heads over 1"
    two = jax.set_mesh(mesh_of(data=2))
    with two, nn.logical_axis_rules(RULES[:1]), pytest.raises(UserError, match=uneven):
        attention.attend(q, q, q, backend="pallas")
    with pytest.raises(UserError, match=r"takes queries \(b, n, h, hd\)"):
        attention.attend(q[None], q[None], q[None], backend="pallas")


@pytest.mark.parametrize("precision", ["high", "float32"])
def test_any_default_precision_can_be_lowered(precision):
    x = jax.ShapeDtypeStruct((1, 197, 128), jnp.float32)
    attend = jax.jit(lambda *x: short_attention.attend_at_once(*x, 2))
    with jax.default_matmul_precision(precision):
        lowered = attend.trace(x, x, x).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(scan=True), dict(qk_norm=True, reg_tokens=2)])
def test_a_model_has_the_same_numbers_and_gradients(options):
    small = dict(img_size=32, depth=1, embed_dim=32, num_heads=2, num_classes=3)
    x = drawn(1, 32, 32, 3)[0]

    def run(backend):
        model = vit_jax.create_model(
            "vit_tiny_patch16_224", **small, **options, attn_backend=backend
        )
        params = jax.jit(model.init)(jax.random.key(0), x)["params"]
        params = jax.tree.map(lambda leaf: leaf + 0.01, params)  # the head starts at zero

        def loss(params):
            return jnp.square(model.apply({"params": params}, x)).sum()

        return jax.value_and_grad(loss)(params)

    expected = run("xla")
    with interpreted():
        found = run("pallas")
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


def test_flash_attention_of_a_part_of_the_queries():
    q, k, v, _ = drawn(1, 45, 2, 64)
    expected, _ = attention.attend(q[:, :20], k, v, backend="xla")
    with interpreted():
        found, _ = attention.attend(q[:, :20], k, v, backend="pallas")
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("tokens", [196, 1024])
def test_lowering_for_a_mesh_of_tpus(tokens):
    """XLA cannot partition a kernel: lowering fails unless it runs under shard_map."""
    mesh = mesh_of(data=2, tensor=2)
    spec = jax.sharding.PartitionSpec("data", None, "tensor")
    place = jax.sharding.NamedSharding(mesh, spec)
    shape = jax.ShapeDtypeStruct((4, tokens, 2, 64), jnp.bfloat16, sharding=place)
    with jax.set_mesh(mesh), nn.logical_axis_rules((RULES[0], RULES[2])):
        attend = jax.jit(lambda *x: attention.attend(*x, backend="pallas")[0])
        lowered = attend.trace(shape, shape, shape).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


@pytest.mark.parametrize("on_a_mesh", [False, True])
@pytest.mark.parametrize("tokens, backward", [(196, 1), (1024, 2)])
@pytest.mark.parametrize("remat, forward", [("none", 1), ("dots_saveable", 1), ("full", 2)])
def test_how_often_a_kernel_runs(remat, forward, tokens, backward, on_a_mesh):
    """Where products are kept, what it gave is kept too, and it does not run once more for that."""
    block = dict(attention=dict(num_heads=2, backend="pallas"), mlp=dict(hidden=128))
    encoder = Encoder(1, block, remat=remat)
    x = jnp.zeros((2, tokens, 128), jnp.bfloat16)
    mesh = jax.set_mesh(mesh_of(data=2)) if on_a_mesh else contextlib.nullcontext()
    with mesh, nn.logical_axis_rules(RULES[:1]), laid_out_for_accelerators():
        params = jax.eval_shape(encoder.init, jax.random.key(0), x)

        def loss(params, x):
            return encoder.apply(params, x)[0].astype(jnp.float32).sum()

        traced = jax.jit(jax.grad(loss, (0, 1))).trace(params, x)
    assert str(traced.jaxpr).count("pallas_call[") == forward + backward


@pytest.mark.parametrize("tokens", [48, 45])
def test_split_over_a_mesh_it_computes_the_same(tokens, monkeypatch):
    """Queries too, over `sequence`, if they can be split evenly; by plain products on each device.

    A kernel is interpreted by calls out of the program, which would wait for each other here.
    """
    seen = []

    def plain(q, k, v):
        seen.append((q.shape, k.shape))
        weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5)
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v)

    monkeypatch.setattr(attention_tpu, "_on_one_device", plain)
    tensors = drawn(2, tokens, 4, 16)
    expected = values_and_gradients("xla", *tensors)
    with jax.set_mesh(mesh_of(data=2, sequence=2, tensor=2)), nn.logical_axis_rules(RULES):
        found = jax.jit(values_and_gradients, static_argnums=0)("pallas", *tensors)
    own = 24 if tokens == 48 else 45
    assert seen[0] == ((1, own, 2, 16), (1, tokens, 2, 16))
    chex.assert_trees_all_close(found, expected, atol=2e-6, rtol=1e-5)
