"""Properties of the Swin Transformers that need no other implementation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import vit_jax
from tests.models.test_vit import matmul_flops
from vit_jax.models import logical_axes, resample_params, stack_blocks, unstack_blocks
from vit_jax.models.layers import attention
from vit_jax.models.layers.resample import resample_bias_table
from vit_jax.models.layers.window import relative_index, shift_mask

TINY = dict(embed_dim=8, depths=(2, 1), num_heads=(2, 4), window_size=3, num_classes=5)
NAMES = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}
both_versions = pytest.mark.parametrize("version", NAMES)
# What is compiled here runs once: unoptimised, it is ready in a third of the time.


def build(version=1, **options):
    options = {**TINY, "img_size": 24, "version": version, **options}
    return vit_jax.create_model(NAMES.get(version, NAMES[1]), **options)


def images(batch=2, size=(24, 24), seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *size, 3)).astype(np.float32)


def shapes_of(module, x):
    return jax.eval_shape(module.init, jax.random.key(0), x)["params"]


def drawn(module, x, seed=0):
    """Parameters with nothing left at zero or one."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes_of(module, x)
    )


# What is returned.


def test_intermediates_are_documented_maps():
    module = build(depths=(2, 1, 1, 1), num_heads=(2, 2, 4, 8), img_size=96)
    x = jax.ShapeDtypeStruct((2, 97, 130, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    names = ("embedding", "tokens", "maps", "features")
    apply = functools.partial(module.apply, capture=names)
    logits, seen = jax.eval_shape(apply, variables, x)
    assert logits.shape == (2, 5)
    expected = [(2, 25, 33, 8), (2, 13, 17, 16), (2, 7, 9, 32), (2, 4, 5, 64)]
    assert [leaf.shape for leaf in seen.maps] == expected
    assert [leaf.shape for leaf in seen.tokens] == [expected[0], *expected]
    assert seen.embedding.shape == expected[0]
    assert seen.features.shape == expected[-1]
    assert module.stride == (32, 32)
    assert jax.eval_shape(module.apply, variables, x).shape == (2, 5)


def test_what_is_captured_hangs_together():
    module, x = build(num_classes=0), images()
    params = drawn(module, x)
    run = jax.jit(functools.partial(module.apply, capture=("tokens", "maps", "features")))
    pooled, seen = run({"params": params}, x)
    assert seen.embedding is None
    np.testing.assert_array_equal(seen.maps[0], seen.tokens[1])
    np.testing.assert_array_equal(seen.maps[1], seen.tokens[2])
    np.testing.assert_allclose(pooled, seen.features.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    every = build(global_pool="none")
    assert jax.eval_shape(every.init_with_output, jax.random.key(0), x)[0].shape == (2, 3, 3, 5)
    with pytest.raises(ValueError, match=r"capture=\('map',\): expected .*'tokens', 'maps'"):
        module.apply({"params": params}, x, capture=("map",))


# Windows.


def test_the_mask_keeps_apart_what_was_not_side_by_side():
    """Two tokens of a window see each other where the move has left them at their distance."""
    grid, window, shift = (8, 12), (4, 4), (2, 1)
    rows, columns = np.indices(grid)
    before = np.stack([np.roll(i, [-s for s in shift], (0, 1)) for i in (rows, columns)])
    cut = before.reshape(2, 2, 4, 3, 4).transpose(0, 1, 3, 2, 4).reshape(2, 6, 16)
    distance = cut[:, :, :, None] - cut[:, :, None, :]
    inside = np.stack(np.divmod(np.arange(16), 4))
    near = (distance == (inside[:, :, None] - inside[:, None, :])[:, None]).all(axis=0)
    expected = np.where(near, 0.0, -100.0)
    np.testing.assert_array_equal(shift_mask(grid, window, shift)[:, 0], expected)


def test_offsets_have_a_place_each():
    index = relative_index((2, 3))
    places = np.stack(np.divmod(np.arange(6), 3))
    for i in range(6):
        for j in range(6):
            down, across = places[:, i] - places[:, j]
            assert index[i, j] == (down + 1) * 5 + across + 2
    assert len(np.unique(index)) == 3 * 5


@both_versions
def test_a_token_is_reached_from_its_window_alone(version):
    """Without a move: one stage and one block, windows of 3 by 3 patches of 4 pixels."""
    module, x = build(version, depths=(1,), num_heads=(2,)), images(1)
    params = drawn(module, x)
    run = jax.jit(functools.partial(module.apply, capture=("maps",)))
    moved = x.copy()
    moved[0, 13, 2] += 1.0  # of the patch in row 3, column 0
    maps = [run({"params": params}, picture)[1].maps[0][0] for picture in (x, moved)]
    changed = np.abs(maps[0] - maps[1]).max(axis=-1) > 0
    expected = np.zeros((6, 6), bool)
    expected[3:, :3] = True
    np.testing.assert_array_equal(changed, expected)


def test_windows_and_moves():
    module = build(window_size=4, depths=(1, 1, 1), num_heads=(2, 2, 2), img_size=(64, 32))
    assert module.grids() == ((16, 8), (8, 4), (4, 2))
    assert module.windows() == ((4, 4), (4, 4), (4, 2))
    assert module.shifts() == ((2, 2), (0, 0), (0, 0))
    # Version 1 looks at the images at hand, version 2 at those it is made for.
    assert module.shifts((128, 96)) == ((2, 2), (2, 2), (2, 1))
    second = module.clone(version=2)
    assert second.shifts((128, 96)) == second.shifts() == module.shifts()
    each = build(window_size=((2, 3), 4), img_size=(64, 48))
    assert each.windows() == ((2, 3), (4, 4))


@both_versions
def test_cost_is_linear_in_the_number_of_tokens(version):
    module = vit_jax.create_model(NAMES[version], num_classes=0)
    side = vit_jax.models.vit.pair(module.img_size)[0]
    bias = module.flops(side) if version == 1 else 0
    first, second, third = (module.flops(side * k) for k in (1, 2, 4))
    if version == 1:
        assert (second, third) == (4 * bias, 16 * bias)
    # The network of version 2 gives the same biases at any size: 3 and 15 times what is left.
    assert 5 * (second - first) == third - first


# The same numbers however it is run.


@pytest.mark.slow
@both_versions
def test_scan_and_remat_give_the_same_numbers_with_every_dropout_on(version):
    x, key = images(), jax.random.key(3)
    rates = dict.fromkeys(("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"), 0.2)
    params = drawn(build(version), x)

    def run(remat, scan=False):
        module = build(version, remat=remat, scan=scan, **rates)

        @jax.jit
        @jax.value_and_grad
        def loss(params):
            output = module.apply({"params": params}, x, train=True, rngs={"dropout": key})
            return jnp.square(output).sum()

        total, grads = loss(stack_blocks(params) if scan else params)
        return total, unstack_blocks(grads) if scan else grads

    # The same operations, fused differently by the compiler: float32 rounding remains.
    expected = run("none")
    chex.assert_trees_all_close(run("full", scan=True), expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(run("dots_saveable"), expected, rtol=1e-4, atol=1e-5)


@both_versions
def test_sharded_over_eight_devices(version):
    """Batch, parameters and heads each split in two: logits and gradients stay the same."""
    module = build(version, num_heads=(2, 2), img_size=(20, 28))
    x = images(4, (20, 28))
    params = drawn(module, x)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (jax.sharding.AxisType.Auto,) * 3)
    rules = (
        ("batch", ("data", "fsdp")),
        ("embed", "fsdp"),
        ("mlp", "tensor"),
        ("heads", "tensor"),
        ("classes", "tensor"),
    )

    def loss(params, x):
        output = module.apply({"params": params}, x)
        return jnp.square(output).sum(), output

    run = jax.value_and_grad(loss, has_aux=True)
    expected = jax.jit(run)(params, x)

    def place(leaf, axes):
        names = nn.logical_to_mesh_axes(axes, rules)
        fits = [n if n and leaf.shape[i] % 2 == 0 else None for i, n in enumerate(names)]
        spec = jax.sharding.PartitionSpec(*fits)
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))

    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        axes = logical_axes(module, x)["params"]
        placed = jax.tree.map(place, params, axes)
        kernel = placed["stages_0"]["blocks_0"]["attn"]["qkv"]["kernel"]
        assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4
        batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        found = jax.jit(run)(placed, jax.device_put(x, batch))
    chex.assert_trees_all_close(jax.device_get(found), expected, rtol=1e-4, atol=1e-5)


@both_versions
def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(version):
    x = images()
    module = build(version, dtype="bfloat16")
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    apply = functools.partial(module.apply, capture=("tokens",))
    logits, seen = jax.eval_shape(apply, shapes, x)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in seen.tokens} == {jnp.dtype("bfloat16")}


@both_versions
def test_nothing_is_pinned_to_float32(version):
    """With float64 parameters and images, no operation of the forward pass yields float32."""
    x = images().astype(np.float64)
    module = build(version)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), drawn(module, x))
        jaxpr = jax.make_jaxpr(lambda p: module.apply({"params": p}, x))(params)
    assert "f32" not in str(jaxpr)


def test_version_2_starts_as_the_identity():
    """Its norms close the branches, with a scale of zero (section 3.2 and the authors' code)."""
    module, x = build(2), images()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    # Operation by operation: jitted, XLA may compute the embedding twice, and round it differently.
    seen = module.apply(variables, x, capture=("embedding", "maps"))[1]
    np.testing.assert_array_equal(seen.maps[0], seen.embedding)
    assert np.abs(seen.maps[0]).max() > 0.1


def test_stochastic_depth_grows_linearly_over_all_stages():
    module = build(depths=(2, 3), drop_path_rate=0.4)
    stages = [stage.encoder for stage in module.bind({}).stages]
    rates = [
        rate
        for stage in stages
        for rate in np.linspace(
            stage["first_drop_path_rate"], stage["drop_path_rate"], stage["depth"]
        )
    ]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4])
    x = images(16)
    params = drawn(module, x)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda p: module.apply({"params": p}, x, train=True), params)


def test_a_padding_without_bias_has_finite_gradients():
    """Keys of version 2 have no bias: those of a padding are zero, and so is their length."""
    module, x = build(2, img_size=28), images(1, (28, 28))
    params = drawn(module, x)

    @jax.jit
    @jax.grad
    def gradient(params):
        return module.apply({"params": params}, x).sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(params)))


# Attention with biases and scales.


def test_scores_take_a_bias_by_window_and_a_scale_by_head():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 3, 5, 2, 4)).astype(np.float32)
    bias = rng.normal(size=(3, 2, 5, 5)).astype(np.float32)
    scale = np.array([0.5, 7.0], np.float32)
    mixed, weights = attention.attend(
        *map(jnp.asarray, (q, k, v)), bias=bias, scale=jnp.asarray(scale), return_weights=True
    )
    for i, window, h in np.ndindex(2, 3, 2):
        at = (i, window, slice(None), h)
        scores = scale[h] * q[at] @ k[at].T + bias[window, h]
        expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(weights[i, window, h], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(mixed[at], expected @ v[at], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", [dict(bias=jnp.zeros((1, 1, 8, 8))), dict(scale=jnp.ones(2))])
def test_fused_kernels_refuse_a_bias_and_a_scale(changed):
    q = jnp.ones((1, 8, 2, 4))
    with pytest.raises(ValueError, match=r"'pallas' takes no bias and no scale .*'xla' or 'auto'"):
        attention.attend(q, q, q, backend="pallas", **changed)


# Transfer.


def test_tables_of_biases_are_resized_as_timm_does():
    torch = pytest.importorskip("torch")
    from tests.models.timm_oracle import timm

    rng = np.random.default_rng(0)
    for old, new in (((7, 7), (12, 12)), ((12, 12), (7, 7)), ((4, 6), (5, 3)), ((1, 2), (2, 1))):
        table = rng.normal(size=(2 * old[0] - 1, 2 * old[1] - 1, 3)).astype(np.float32)
        count = (2 * new[0] - 1) * (2 * new[1] - 1)
        flat = torch.tensor(table.reshape(-1, 3))
        expected = timm.layers.resize_rel_pos_bias_table(flat, new, (count, 3), old)
        found = resample_bias_table(jnp.asarray(table), new)
        np.testing.assert_allclose(found.reshape(-1, 3), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_parameters_for_another_window():
    old, x = build(), images()
    new = build(window_size=5, img_size=40, patch_size=4)
    params = drawn(old, x)
    moved = resample_params(params, old, new)
    expected = shapes_of(new, images(1, (40, 40)))
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, expected)
    table = params["stages_0"]["blocks_1"]["attn"]["rel_pos"]["table"]
    resized = moved["stages_0"]["blocks_1"]["attn"]["rel_pos"]["table"]
    np.testing.assert_allclose(resized, resample_bias_table(jnp.asarray(table), (5, 5)))
    changed = {path for path, one in leaves(params) if one is not dict(leaves(moved))[path]}
    assert {path.split("'")[-2] for path in changed} == {"table"}
    scanned = resample_params(stack_blocks(params), old.clone(scan=True), new.clone(scan=True))
    chex.assert_trees_all_close(unstack_blocks(scanned), moved, rtol=1e-6)
    # Windows that stay change nothing, whatever the size of the images.
    same = resample_params(params, old, build(img_size=48))
    chex.assert_trees_all_equal(same, params)


def leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def test_version_2_computes_its_biases_for_another_window():
    old, x = build(2), images()
    params = drawn(old, x)
    new = build(2, window_size=5, img_size=40, pretrained_window_sizes=3)
    assert resample_params(params, old, new)["stages_0"] is params["stages_0"]
    with pytest.raises(ValueError, match=r"build the new with pretrained_window_sizes=\(3, 3\)"):
        resample_params(params, old, build(2, window_size=5, img_size=40))
    with pytest.raises(ValueError, match="version is 2 in the old module and 1"):
        resample_params(params, old, build())
    with pytest.raises(ValueError, match="of a SwinTransformer for a VisionTransformer"):
        resample_params(params, old, vit_jax.create_model("vit_tiny_patch16_224"))


# Bad input.


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window_size=((3, 3), (7, 7))), r"window of stage 1, \(7, 7\), is larger"),
        (dict(window_size=7), r"window_size=7 is larger than the map of \(6, 6\) tokens"),
        (dict(window_size=(3, 7)), r"window_size=\(3, 7\) is larger than the map"),
        (dict(window_size=(3, 3, 3)), "window_size=.*expected one number, a pair, or one of these"),
        (dict(window_size=0), "window_size is 0; expected a whole number, 1 or more"),
        (dict(depths=(2, 2, 2)), "depths=.* one entry for each stage in both"),
        (dict(depths=()), "depths=.* one entry for each stage in both"),
        (dict(num_heads=(3, 4)), r"num_heads=\(3, 4\) must divide .* embed_dim=8 makes \(8, 16\)"),
        (dict(pretrained_window_sizes=3), "pretrained_window_sizes=3 needs version=2"),
        (dict(version=2, pretrained_window_sizes=(3,)), r"=\(3,\): expected one number, or one"),
        (dict(version=3), "version is 3; expected one of 1, 2"),
        (dict(global_pool="token"), "global_pool is 'token'; expected one of 'avg', 'none'"),
        (dict(drop_path_rate=1.0), "drop_path_rate is 1.0; expected a number"),
        (dict(remat="dots"), "remat is 'dots'; expected"),
        (dict(windows_size=3), "'windows_size': did you mean 'window_size'"),
    ],
)
def test_contradictions_are_refused_when_the_model_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_images_are_refused():
    module = build()
    variables = {"params": drawn(module, images())}
    with pytest.raises(ValueError, match=r"expected images \(batch, height, width, 3\)"):
        module.apply(variables, np.zeros((1, 16, 16, 1), np.float32))
    with pytest.raises(ValueError, match=r"expected images .* got \(1, 0, 16, 3\)"):
        module.apply(variables, np.zeros((1, 0, 16, 3), np.float32))
    with pytest.raises(ValueError, match="floating-point"):
        module.apply(variables, np.zeros((1, 16, 16, 3), np.uint8))


@both_versions
def test_logical_axes_name_every_parameter(version):
    x = images()
    module = build(version)
    axes, shapes = logical_axes(module, x)["params"], shapes_of(module, x)
    jax.tree.map(lambda shape, names: chex.assert_equal(len(names), shape.ndim), shapes, axes)
    block = axes["stages_0"]["blocks_0"]
    assert block["attn"]["qkv"]["kernel"] == ("embed", "qkv", "heads", "head_dim")
    assert block["mlp"]["fc2"]["kernel"] == ("mlp", "embed")


# Cost.


@pytest.mark.parametrize(
    "name, options",
    [
        (NAMES[1], {}),
        (NAMES[1], dict(img_size=(230, 301), depths=(2, 1, 1), num_heads=(3, 6, 12))),
        (NAMES[2], dict(global_pool="none", depths=(2, 2, 2, 2))),
        ("swin_s3_small_224", dict(depths=(2, 2, 2, 2), num_classes=0)),
    ],
)
def test_flops_are_those_of_the_program(name, options):
    """Exactly: every matrix product and nothing else."""
    module = vit_jax.create_model(name, **options)
    size = vit_jax.models.vit.pair(module.img_size)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    program = jax.make_jaxpr(module.apply)(variables, x)
    assert module.flops() == matmul_flops(program.jaxpr)


@both_versions
def test_flops_agree_with_the_compiler(version):
    """Within 5 %: XLA also counts norms, activations and softmax, which peak rates leave out."""
    module = vit_jax.create_model(
        NAMES[version], embed_dim=384, depths=(1, 1), num_heads=(6, 12), img_size=56, window_size=7
    )
    x = jax.ShapeDtypeStruct((1, 56, 56, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = jax.jit(module.apply).lower(variables, x).compile().cost_analysis()["flops"]
    assert abs(module.flops() / counted - 1) < 0.05
