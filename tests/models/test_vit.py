"""Properties of the ViT that need no other implementation."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import vit_jax
from tests.applied import apply
from vit_jax.models import logical_axes, resample_params, stack_blocks, unstack_blocks
from vit_jax.models.layers import attention

TINY = dict(embed_dim=32, depth=3, num_heads=4, img_size=16, patch_size=4, num_classes=5)
NAME = "vit_tiny_patch16_224"
DROPS = dict(
    drop_rate=0.1,
    pos_drop_rate=0.1,
    patch_drop_rate=0.25,
    proj_drop_rate=0.1,
    attn_drop_rate=0.1,
    drop_path_rate=0.3,
)


def build(**options):
    return vit_jax.create_model(NAME, **{**TINY, **options})


def images(batch=2, size=(16, 16), seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *size, 3)).astype(np.float32)


def drawn(module, x, seed=0):
    """Parameters with nothing left at zero or one."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes)


# Depth: scanned or unrolled, rematerialised or not.

LAYOUTS = list(
    itertools.product([False, True], ["none", "full", "dots_with_no_batch_dims_saveable"])
)


@pytest.mark.slow
def test_scan_and_remat_give_the_same_numbers_with_every_dropout_on():
    x, key = images(), jax.random.key(3)
    params = drawn(build(depth=2), x)

    def run(scan, remat):
        module = build(depth=2, **DROPS, scan=scan, remat=remat)

        @jax.jit
        def loss(params):
            output = module.apply({"params": params}, x, train=True, rngs={"dropout": key})
            return jnp.square(output).sum(), output

        layout = stack_blocks(params) if scan else params
        (_, output), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(layout)
        return output, unstack_blocks(grads) if scan else grads

    expected, expected_grads = run(False, "none")
    for scan, remat in LAYOUTS[1:]:
        output, grads = run(scan, remat)
        # The same operations, fused differently by the compiler: float32 rounding remains.
        chex.assert_trees_all_close(output, expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(grads, expected_grads, rtol=1e-4, atol=1e-5)


def test_stack_and_unstack_are_inverse():
    x = images()
    params = drawn(build(), x)
    stacked = stack_blocks(params)
    shapes = jax.eval_shape(build(scan=True).init, jax.random.key(0), x)["params"]
    chex.assert_trees_all_equal_shapes(stacked, shapes)
    chex.assert_trees_all_equal(unstack_blocks(stacked), params)


def test_stack_refuses_a_hole():
    params = drawn(build(), images())
    del params["encoder"]["blocks_1"]
    with pytest.raises(ValueError, match="blocks are not numbered"):
        stack_blocks(params)


# Attention backends.


def qkv(tokens, dtype, head_dim=64, scale=1.0):
    rng = np.random.default_rng(0)
    shape = (2, tokens, 3, head_dim)
    return [jnp.asarray(rng.normal(scale=scale, size=shape), dtype) for _ in range(3)]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN attention needs a GPU")
@pytest.mark.parametrize("tokens", [197, 256])
def test_cudnn_attention_equals_the_plain_one(tokens):
    q, k, v = qkv(tokens, jnp.bfloat16)
    expected, _ = attention.attend(*(x.astype(jnp.float32) for x in (q, k, v)), backend="xla")
    mixed, _ = attention.attend(q, k, v, backend="cudnn")
    # One rounding of the weights and one of the result to bfloat16 (2^-9 each), |v| up to 4.
    np.testing.assert_allclose(mixed.astype(jnp.float32), expected, atol=2 * 4 * 2**-9)


@pytest.mark.parametrize("head_dim", [64, 72, 88])
def test_softmax_and_scale_are_taken_in_float32_for_bfloat16_inputs(head_dim):
    q, k, v = qkv(64, jnp.bfloat16, head_dim, scale=3.0)
    _, weights = attention.attend(q, k, v, return_weights=True)
    assert weights.dtype == jnp.float32
    q, k = (np.asarray(x, np.float64) for x in (q, k))
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) * head_dim**-0.5
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    # Scores up to 100 carry float32's rounding, 100 * 2^-24 = 6e-6; bfloat16's would be 1e-2.
    np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_backend_choice():
    short, long = qkv(197, jnp.bfloat16)[0], qkv(2048, jnp.bfloat16)[0]

    def pick(platform, query, needs_weights):
        return attention.pick_backend(platform, query, query, needs_weights)

    assert pick("cpu", long, False) == "xla"
    assert pick("gpu", short, False) == "cudnn"
    assert pick("gpu", short.astype(jnp.float32), False) == "xla"
    assert pick("gpu", qkv(64, jnp.bfloat16, head_dim=256)[0], False) == "xla"
    assert pick("gpu", short, True) == "xla"
    assert pick("tpu", short, True) == pick("tpu", short, False) == "xla"  # on eight devices
    with jax.set_mesh(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])):
        assert pick("tpu", short, False) == pick("tpu", long, False) == "pallas"
        assert pick("tpu", short, True) == "xla"


def test_backend_errors():
    q, k, v = qkv(8, jnp.float32)
    with pytest.raises(ValueError, match="attn_backend='flash' is unknown"):
        attention.attend(q, k, v, backend="flash")
    with pytest.raises(ValueError, match="never forms the attention weights"):
        attention.attend(q, k, v, backend="pallas", return_weights=True)
    if jax.default_backend() == "cpu":
        with pytest.raises(ValueError, match="needs a GPU"):
            attention.attend(q, k, v, backend="cudnn")


# Precision.


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    x = images()
    params = drawn(build(), x)
    module = build(dtype="bfloat16")
    logits, seen = apply(module, params, x, capture=("tokens",))
    assert logits.dtype == jnp.float32
    assert seen.tokens.dtype == jnp.bfloat16
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_nothing_is_pinned_to_float32():
    """With float64 parameters and images, no operation of the forward pass yields float32."""
    x = images().astype(np.float64)
    for options in (
        dict(pos_embed="sincos_2d", rope="axial", reg_tokens=1, no_embed_class=True),
        dict(global_pool="map", class_token=False, norm_layer="rmsnorm", rope="dinov3"),
    ):
        module = build(**options)
        with jax.enable_x64(True):
            params = jax.tree.map(lambda leaf: leaf.astype(np.float64), drawn(module, x))
            jaxpr = jax.make_jaxpr(lambda p, m=module: m.apply({"params": p}, x))(params)
        assert "f32" not in str(jaxpr)


# Tokens, positions, pooling.


def test_position_kinds_add_what_they_say():
    from vit_jax.models.layers.position import PositionEmbed, sincos_table

    grid, d = (3, 5), 8
    table = sincos_table("sincos_2d", grid, d)
    # He et al. (2022), A.1, entry by entry: the column's sines and cosines, then the row's.
    for row, column in itertools.product(range(3), range(5)):
        omega = [1.0, 1e4 ** (-1 / 2)]
        expected = [
            *(np.sin(column * w) for w in omega),
            *(np.cos(column * w) for w in omega),
            *(np.sin(row * w) for w in omega),
            *(np.cos(row * w) for w in omega),
        ]
        np.testing.assert_allclose(table[row * 5 + column], expected, atol=1e-15)
    line = sincos_table("sincos_1d", grid, d)
    np.testing.assert_allclose(line[7, 2], np.sin(7 * 1e4 ** (-2 / 4)), atol=1e-15)

    module = PositionEmbed("learn_2d", grid, d, num_prefix_tokens=2)
    params = jax.tree.map(
        lambda s: np.random.default_rng(0).normal(size=s.shape),
        nn.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), grid)))["params"],
    )
    rows = module.apply({"params": params}, grid)
    np.testing.assert_array_equal(rows[0, :2], 0)
    expected = params["row"][:, 0][2] + params["column"][0][4]
    np.testing.assert_allclose(rows[0, 2 + 2 * 5 + 4], expected, rtol=1e-6)


def test_rope_products_depend_on_the_difference_of_positions():
    from vit_jax.models.layers.rope import rope_angles, rotate

    rng = np.random.default_rng(0)
    grid, head_dim = (4, 6), 16
    for kind in ("axial", "dinov3"):
        with jax.enable_x64(True):
            angles = jnp.asarray(rope_angles(kind, grid, head_dim, 100.0))[None]
            one = np.broadcast_to(rng.normal(size=(2, 1, 1, head_dim)), (2, 24, 1, head_dim))
            q, k = (rotate(jnp.asarray(side)[None], angles, kind)[0, :, 0] for side in one)
            scores = np.asarray(q @ k.T).reshape(4, 6, 4, 6)
        np.testing.assert_allclose(scores[0, 0, 1, 2], scores[2, 3, 3, 5], rtol=1e-12)
        np.testing.assert_allclose(scores[1, 4, 0, 1], scores[3, 5, 2, 2], rtol=1e-12)
        assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3


def test_rope_leaves_prefix_tokens_alone():
    from vit_jax.models.layers.rope import rope_angles, rotate

    x = jnp.ones((1, 3 + 4, 2, 8))
    rotated = rotate(x, jnp.asarray(rope_angles("axial", (2, 2), 8, 100.0))[None], "axial")
    np.testing.assert_array_equal(rotated[:, :3], 1.0)
    assert not np.allclose(rotated[:, 6], 1.0)


@pytest.mark.parametrize("options", [dict(pos_embed=kind) for kind in ("learn", "learn_2d")])
def test_learned_positions_break_the_symmetry_of_patches(options):
    x = images(1, (16, 16))
    free = build(pos_embed="none", global_pool="avg", class_token=False)
    # Without positions a permutation of whole patches changes nothing.
    swapped = np.concatenate([x[:, 8:], x[:, :8]], axis=1)
    params = drawn(free, x)
    free_outputs = [apply(free, params, i) for i in (x, swapped)]
    np.testing.assert_allclose(*free_outputs, rtol=1e-4, atol=1e-5)
    module = build(**options)
    params = drawn(module, x)
    outputs = [np.asarray(apply(module, params, i)) for i in (x, swapped)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4  # a hundred times float32's rounding


def test_pools():
    x = images()
    for pool, shape in {
        "token": (2, 32),
        "avg": (2, 32),
        "token_avg": (2, 64),
        "map": (2, 32),
        "none": (2, 19, 32),
    }.items():
        module = build(global_pool=pool, num_classes=0, reg_tokens=2, fc_norm=False)
        params = drawn(module, x)
        output, seen = apply(module, params, x, capture=("features",))
        assert output.shape == shape
        expected = {
            "token": seen.features[:, 0],
            "avg": seen.features[:, 3:].mean(1),
            "token_avg": np.concatenate(
                [seen.features[:, 0], seen.features[:, 3:].mean(1)], axis=-1
            ),
            "none": seen.features,
        }
        if pool in expected:
            np.testing.assert_allclose(output, expected[pool], rtol=1e-5, atol=1e-6)


def test_pre_logits_layer():
    x = images()
    module = build(representation_size=12)
    params = drawn(module, x)
    assert params["pre_logits"]["kernel"].shape == (32, 12)
    assert params["head"]["kernel"].shape == (12, 5)
    features = build(num_classes=0).apply(
        {"params": {k: v for k, v in params.items() if k not in ("head", "pre_logits")}}, x
    )
    hidden = np.tanh(features @ params["pre_logits"]["kernel"] + params["pre_logits"]["bias"])
    expected = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-4, atol=1e-5)


def test_no_key_bias():
    """Without a key bias the result is the same: the softmax takes a constant away."""
    x = images()
    with_bias, without = build(depth=1), build(depth=1, k_bias=False)
    params = drawn(without, x)
    attn = params["encoder"]["blocks_0"]["attn"]
    full = jax.tree.map(lambda leaf: leaf, params)
    q_bias, v_bias = attn["qv_bias"]
    full["encoder"]["blocks_0"]["attn"] = {
        "qkv": {
            "kernel": attn["qkv"]["kernel"],
            "bias": np.stack([q_bias, np.full_like(q_bias, 0.7), v_bias]),
        },
        "proj": attn["proj"],
    }
    expected = apply(with_bias, full, x)
    np.testing.assert_allclose(apply(without, params, x), expected, rtol=1e-4, atol=1e-5)
    assert "bias" not in attn["qkv"]


ALL = ("embedding", "tokens", "attention", "features")


def test_capture_takes_names_and_gives_what_was_asked_for():
    x = images()
    module = build()
    params = drawn(module, x)
    _, seen = apply(module, params, x, capture=("features",))
    assert seen.features.shape == (2, 17, 32)
    assert seen.tokens is None
    assert seen.attention is None
    for wrong in ("attention", ("attentions",)):
        with pytest.raises(ValueError, match="expected a tuple of names out of"):
            module.apply({"params": params}, x, capture=wrong)


def test_attention_maps_are_the_weights_that_were_used():
    x = images()
    for scan in (False, True):
        module = build(scan=scan, reg_tokens=1)
        params = drawn(module, x)
        plain = apply(module, params, x)
        logits, seen = apply(module, params, x, capture=ALL)
        np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)
        assert seen.attention.shape == (3, 2, 4, 18, 18)
        assert seen.tokens.shape == (3, 2, 18, 32)
        np.testing.assert_allclose(seen.attention.sum(-1), 1.0, atol=1e-5)
        normed = apply(module, params, seen.tokens[-1], method="normalize")
        np.testing.assert_allclose(seen.features, normed, rtol=1e-5, atol=1e-5)


def test_capturing_costs_the_normal_path_nothing():
    """Without capture the compiled program holds no stacked intermediates."""
    x = images()
    module = build(scan=True)
    params = drawn(module, x)
    plain = str(jax.make_jaxpr(lambda p: module.apply({"params": p}, x))(params))
    captured = str(
        jax.make_jaxpr(lambda p: module.apply({"params": p}, x, capture=("tokens",))[1].tokens)(
            params
        )
    )
    stacked = "f32[3,2,17,32]"
    assert stacked in captured
    assert stacked not in plain


# Dropout of all kinds.


def test_patch_dropout_keeps_the_stated_number_and_the_prefix():
    x = images(3)
    module = build(patch_drop_rate=0.5, reg_tokens=2, rope="axial")
    params = drawn(module, x)
    rngs = {"dropout": jax.random.key(0)}
    _, seen = apply(module, params, x, train=True, capture=ALL[:1], rngs=rngs)
    full, _ = apply(module, params, jnp.asarray(x), method="embed")
    assert seen.embedding.shape == (3, 3 + 8, 32)
    np.testing.assert_allclose(seen.embedding[:, :3], full[:, :3], rtol=1e-5)
    for kept, all_tokens in zip(seen.embedding[:, 3:], full[:, 3:]):
        distances = np.abs(np.asarray(kept)[:, None] - np.asarray(all_tokens)[None]).max(-1)
        chosen = distances.argmin(1)
        assert distances.min(1).max() < 1e-5
        assert len(set(chosen)) == 8


def test_patch_dropout_keeps_each_patch_at_its_place():
    """Attention over the kept patches equals attention over all with the others masked out."""
    from vit_jax.models.layers import rope

    x = images(3)
    module = build(patch_drop_rate=0.5, rope="axial", depth=1, pos_embed="none")
    params = drawn(module, x)
    key = jax.random.key(1)
    kept_tokens, kept_angles = apply(module, params, jnp.asarray(x), key, method="embed")
    all_tokens, _ = apply(module, params, jnp.asarray(x), method="embed")
    angles = rope.rope_angles("axial", (4, 4), 8)
    for i in range(3):
        difference = np.abs(kept_tokens[i, 1:, None] - all_tokens[i, None, 1:]).max(-1)
        np.testing.assert_allclose(kept_angles[i], angles[difference.argmin(1)], rtol=1e-6)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    from vit_jax.models.layers.drop import drop_path, dropout

    x = jnp.ones((4000, 2, 3))
    dropped = np.asarray(drop_path(x, 0.3, jax.random.key(0)))
    assert set(np.unique(dropped.round(5))) == {0.0, np.float32(1 / 0.7).round(5)}
    assert (dropped.min((1, 2)) == dropped.max((1, 2))).all()
    # Standard error of the mean over 4000 Bernoulli draws: sqrt(.3 / .7 / 4000) = 0.0104.
    assert abs(dropped.mean() - 1) < 4 * 0.0104
    elements = np.asarray(dropout(x, 0.3, jax.random.key(0)))
    assert 0.25 < (elements == 0).mean() < 0.35
    assert drop_path(x, 0.3, None) is x
    assert dropout(x, 0.3, None) is x


def test_stochastic_depth_grows_linearly_from_zero():
    """With a rate of (nearly) one in the last block, the first block is never dropped."""
    x = images(64)
    module = build(drop_path_rate=0.999, depth=2, init_values=1.0)
    params = drawn(module, x)
    rngs = {"dropout": jax.random.key(0)}
    _, seen = apply(module, params, x, train=True, capture=("tokens",), rngs=rngs)
    _, calm = apply(module, params, x, capture=("tokens",))
    np.testing.assert_allclose(seen.tokens[0], calm.tokens[0], rtol=1e-4, atol=1e-4)
    unchanged = np.isclose(seen.tokens[1], seen.tokens[0]).all((1, 2))
    assert unchanged.mean() > 0.9


def test_evaluation_needs_no_random_key_and_training_says_so():
    x = images()
    module = build(**DROPS)
    params = drawn(module, x)
    apply(module, params, x)
    with pytest.raises(Exception, match="dropout"):
        module.apply({"params": params}, x, train=True)
    build().apply({"params": params}, x, train=True)


# Sizes.


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (4, 32)])
def test_any_resolution_the_patch_divides(size):
    module = build(img_size=size)
    x = images(2, size)
    logits = module.apply(module.init(jax.random.key(0), x), x)
    assert logits.shape == (2, 5)


def test_other_resolutions_by_resampling():
    module = build(dynamic_img_size=True)
    x = images()
    params = drawn(module, x)
    larger = images(2, (24, 20))
    resized = build(img_size=(24, 20))
    moved = dict(params)
    moved["pos_embed"] = {
        "table": vit_jax.models.resample_pos_embed(
            params["pos_embed"]["table"], (4, 4), (6, 5), num_prefix_tokens=1
        )
    }
    np.testing.assert_allclose(
        apply(module, params, larger),
        apply(resized, moved, larger),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", ["learn", "learn_2d", "sincos_2d"])
def test_parameters_for_another_resolution_and_patch_size(kind):
    old = build(pos_embed=kind, reg_tokens=1, dynamic_img_size=True)
    x = images()
    params = drawn(old, x)
    # Another resolution: the same as resampling within the forward pass.
    new = build(pos_embed=kind, reg_tokens=1, img_size=(24, 20))
    moved = resample_params(params, old, new)
    larger = images(2, (24, 20))
    expected = apply(old, params, larger)
    np.testing.assert_allclose(apply(new, moved, larger), expected, rtol=1e-5, atol=1e-6)
    # Another patch size, of enlarged images: FlexiViT's resize keeps the tokens.
    new = build(pos_embed=kind, reg_tokens=1, img_size=32, patch_size=8)
    moved = resample_params(params, old, new)
    shapes = jax.eval_shape(new.init, jax.random.key(0), images(1, (32, 32)))["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, shapes)
    with pytest.raises(ValueError, match="num_prefix_tokens is 2 in the old module and 1"):
        resample_params(params, old, build(pos_embed=kind))


@pytest.mark.parametrize("method", ["bicubic", "bicubic_offset", "bilinear_antialias"])
def test_positions_are_resampled_by_the_method_that_is_named(method):
    old, antialias = build(pos_resample=method, dynamic_img_size=True), build(dynamic_img_size=True)
    x, larger = images(), images(2, (24, 20))
    params = drawn(old, x)

    def embed(module, params, x):
        return np.asarray(apply(module, params, jnp.asarray(x), method="embed")[0])

    inside = embed(old, params, larger)
    new = build(pos_resample=method, img_size=(24, 20))
    np.testing.assert_array_equal(inside, embed(new, resample_params(params, old, new), larger))
    assert np.abs(inside - embed(antialias, params, larger)).max() > 0.01
    np.testing.assert_array_equal(embed(old, params, x), embed(antialias, params, x))


def test_positions_for_class_and_patches_but_not_for_registers():
    """The registers come in without a position: as with a row of zeros each."""
    options = dict(reg_tokens=2, dist_token=True, dynamic_img_size=True)
    without, with_rows = build(no_embed_reg=True, **options), build(**options)
    x = images()
    params = drawn(without, x)
    table = params["pos_embed"]["table"]
    assert table.shape == (1, 2 + 16, 32)
    rows = np.concatenate([table[:, :2], np.zeros((1, 2, 32), np.float32), table[:, 2:]], axis=1)
    padded = {**params, "pos_embed": {"table": rows}}
    for size in ((16, 16), (24, 20)):
        x = images(2, size)
        np.testing.assert_array_equal(apply(without, params, x), apply(with_rows, padded, x))
    smaller = build(no_embed_reg=True, img_size=(12, 16), **options)
    moved = resample_params(params, without, smaller)
    assert moved["pos_embed"]["table"].shape == (1, 2 + 12, 32)
    with pytest.raises(ValueError, match="pos_prefix_tokens is 2 in the old module and 4 in the"):
        resample_params(params, without, with_rows)


def test_a_head_without_a_bias():
    x = images()
    for options in ({}, dict(dist_token=True)):
        without = build(head_bias=False, **options)
        params = drawn(without, x)
        heads = [name for name in params if name.startswith("head")]
        assert len(heads) == 1 + len(options)
        zeros = np.zeros(5, np.float32)
        padded = {**params, **{name: {**params[name], "bias": zeros} for name in heads}}
        np.testing.assert_array_equal(apply(without, params, x), apply(build(**options), padded, x))


def test_bad_images_are_refused():
    module = build()
    variables = {"params": drawn(module, images())}
    with pytest.raises(ValueError, match=r"height 18 is not divisible by the patch.*16 or 20"):
        module.apply(variables, images(1, (18, 16)))
    with pytest.raises(ValueError, match="dynamic_img_size=True"):
        module.apply(variables, images(1, (24, 16)))
    with pytest.raises(ValueError, match=r"expected images \(batch, height, width, 3\)"):
        module.apply(variables, np.zeros((1, 16, 16, 1), np.float32))
    with pytest.raises(ValueError, match="floating-point"):
        module.apply(variables, np.zeros((1, 16, 16, 3), np.uint8))


# Cost.


def matmul_flops(jaxpr):
    """Operations of every matrix product and convolution in a program, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        inputs = [v.aval.shape for v in equation.invars if hasattr(v, "aval")]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(inputs[0][axis] for axis in contracted)
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "conv_general_dilated":
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(inputs[1][:3])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += equation.params.get("length", 1) * matmul_flops(inner)
    return total


@pytest.mark.parametrize(
    "name, options",
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", dict(img_size=(64, 96), scan=True, representation_size=50)),
        ("vit_small_patch32_224", dict(mlp_layer="swiglu", global_pool="token_avg")),
        ("vit_base_patch16_siglip_224", dict(num_classes=7)),
        ("vit_base_patch16_siglip_224", dict(pool_include_prefix=True, reg_tokens=3)),
        ("vit_base_patch16_224", dict(global_pool="none", depth=1)),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_small_r26_s32_224", {}),
        ("vit_base_r50_s16_384", {}),
        ("vit_tiny_r_s16_p8_224", {}),
        ("vit_22b_patch14_224", dict(scan=True)),
    ],
)
def test_flops_are_those_of_the_program(name, options):
    """Exactly: every matrix product and convolution, and nothing else."""
    module = vit_jax.create_model(name, **options)
    size = vit_jax.models.vit.pair(module.img_size)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    program = jax.make_jaxpr(module.apply)(variables, x)
    assert module.flops() == matmul_flops(program.jaxpr)


@pytest.mark.parametrize(
    "name, options",
    [
        ("vit_small_patch16_224", dict(depth=4)),
        ("vit_base_patch16_siglip_224", dict(depth=4)),
        ("vit_small_r26_s32_224", dict(depth=2)),
    ],
)
def test_flops_agree_with_the_compiler(name, options):
    """Within 5 %: XLA also counts norms, activations and softmax, which peak rates leave out.

    Their share falls with the width: 5.2 % at 192 (vit_tiny_patch16_224), less from 384 on.
    """
    module = vit_jax.create_model(name, **options)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = jax.jit(module.apply).lower(variables, x).compile().cost_analysis()["flops"]
    assert abs(module.flops() / counted - 1) < 0.05


def test_vit_22b_by_abstract_evaluation():
    """Dehghani et al. (2023), table 1: 21,743M parameters, which the encoder's matrices hold."""
    module = vit_jax.create_model("vit_22b_patch14_224", scan=True)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    blocks = params["encoder"]["blocks"]
    assert blocks["attn"]["qkv"]["kernel"].shape == (48, 6144, 3, 48, 128)
    assert "bias" not in blocks["attn"]["qkv"]
    assert "norm2" not in blocks
    assert blocks["attn"]["q_norm"]["scale"].shape == (48, 128)
    assert blocks["mlp"]["fc1"]["bias"].shape == (48, 4 * 6144)
    kernels = [leaf for leaf in jax.tree.leaves(blocks) if leaf.ndim > 2]
    assert round(sum(leaf.size for leaf in kernels) / 1e6) == 21743
    logits = jax.eval_shape(module.apply, {"params": params}, x)
    assert logits.shape == (1, 1000)


# Names.


def test_initial_weights_have_the_variance_of_each_matrix():
    """Xavier for queries, keys and values apart: uniform within sqrt(6 / (d + d))."""
    module = build(mlp_layer="swiglu", embed_dim=64, num_heads=4)
    block = module.init(jax.random.key(0), images())["params"]["encoder"]["blocks_0"]
    for kernel, fan_in, fan_out in (
        (block["attn"]["qkv"]["kernel"], 64, 64),
        (block["attn"]["proj"]["kernel"], 64, 64),
        (block["mlp"]["fc1"]["kernel"], 64, 256),
        (block["mlp"]["fc2"]["kernel"], 256, 64),
    ):
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.99 * bound < np.abs(kernel).max() <= bound


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"vit_base_patch61_224.*'vit_base_patch16_224'"):
        vit_jax.create_model("vit_base_patch61_224")
    with pytest.raises(ValueError, match=r"hyper-parameter .*'num_class': did you mean 'num_cl"):
        vit_jax.create_model(NAME, num_class=3)
    assert "vit_huge_patch14_224" in vit_jax.list_models("vit_huge*")
    assert not vit_jax.list_models("nothing*")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(img_size=20, patch_size=16), "height 20 is not divisible"),
        (dict(num_heads=5), "not divisible by num_heads=5"),
        (dict(class_token=False), "needs class_token=True"),
        (dict(global_pool="mean"), "global_pool is 'mean'; expected one of 'token', 'avg'"),
        (dict(dist_token=True, global_pool="avg"), "dist_token=True needs"),
        (dict(mlp_layer="glu"), "mlp_layer is 'glu'; expected one of 'mlp'"),
        (dict(act_layer="geluu"), "act_layer is 'geluu'; expected one of 'gelu'"),
        (dict(norm_layer="batchnorm"), "norm_layer is 'batchnorm'; expected one of 'layernorm'"),
        (dict(pos_embed="alibi"), "pos_embed is 'alibi'; expected one of 'learn'"),
        (dict(pos_resample="bicubik"), "pos_resample is 'bicubik'; expected .* 'bicubic_offset'"),
        (dict(no_embed_class=True, no_embed_reg=True), "no_embed_class=True .* contradicts"),
        (dict(rope="1d"), "rope is '1d'; expected one of 'axial', 'dinov3', or None"),
        (dict(attn_backend="flash"), "attn_backend is 'flash'; expected one of 'auto'"),
        (dict(remat="dots"), r"remat is 'dots'; expected .* 'dots_saveable'"),
        (dict(dtype="bfloat61"), "dtype is 'bfloat61'; expected a floating-point dtype"),
        (dict(dist_token=True, representation_size=12), "no pre-logits layer"),
        (dict(drop_rate=1.0), "drop_rate is 1.0; expected a number, 0 <= x < 1"),
        (dict(drop_path_rate=-0.1), "drop_path_rate is -0.1; expected"),
        (dict(num_heads=0), "num_heads is 0; expected a whole number, 1 or more"),
        (dict(reg_tokens=-1), "reg_tokens is -1; expected a whole number, 0 or more"),
        (dict(img_size=(16, 16, 3)), r"img_size is \(16, 16, 3\); expected .* a tuple of 2"),
        (dict(img_size=16.0), "img_size is 16.0; expected a whole number, 1 or more, or"),
        (dict(patch_size=0), "patch_size is 0; expected a whole number, 1 or more, or"),
        (dict(rope="axial", embed_dim=18, num_heads=3), "head width divisible by 4"),
        (dict(pos_embed="sincos_2d", embed_dim=18, num_heads=3), "divisible by 4, got 18"),
    ],
)
def test_contradictions_are_refused_when_the_model_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        vit_jax.create_model(NAME, **options)


def test_logical_axes_name_every_parameter():
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    for options in ({}, dict(scan=True), dict(global_pool="map", class_token=False)):
        module = build(**options, dist_token=False)
        axes = logical_axes(module, x)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        names = jax.tree.map(
            lambda shape, axes: len(shape.shape) == len(axes),
            shapes,
            axes,
        )
        assert all(jax.tree.leaves(names))
    assert axes["params"]["encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"] == ("embed", "mlp")
    stacked = logical_axes(build(scan=True), x)["params"]["encoder"]["blocks"]
    assert stacked["attn"]["proj"]["kernel"] == ("layers", "heads", "head_dim", "embed")


def test_stochastic_depth_may_be_the_same_in_all_blocks():
    """With a rate near 1 only blocks whose rate is 0 leave a trace: the first one, or none."""
    options = dict(TINY, drop_path_rate=1 - 1e-7)
    images = jnp.ones((1, 16, 16, 3))
    for ramp in (True, False):
        module = vit_jax.create_model("vit_tiny_patch16_224", **options, drop_path_ramp=ramp)
        variables = module.init(jax.random.key(0), images)
        _, seen = module.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            capture=("embedding", "tokens"),
        )
        moved = bool(jnp.any(seen.tokens[0] != seen.embedding))
        assert moved == ramp
