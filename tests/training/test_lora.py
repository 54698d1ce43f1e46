"""Low-rank adapters: their sizes, what they compute, merging, and runs that train them."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from tests.applied import apply
from tests.training import tiny
from vit_jax.errors import UserError
from vit_jax.models import unstack_blocks
from vit_jax.models.layers import lora
from vit_jax.training import param_rules
from vit_jax.training.config import load_config
from vit_jax.training.lora import find_adapters

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ALL = ("q", "k", "v", "o", "fc1", "fc2")
SMALL = dict(embed_dim=16, depth=2, num_heads=2, img_size=16, num_classes=3)
SWIN = dict(embed_dim=8, depths=(2, 2), num_heads=(2, 4), num_classes=3, img_size=32, window_size=4)
MODELS = {
    "unrolled": ("vit_tiny_patch16_224", {**SMALL, "patch_size": 4}),
    "scanned": ("vit_tiny_patch16_224", {**SMALL, "patch_size": 4, "scan": True, "remat": "full"}),
    "swiglu": ("vit_tiny_patch16_224", {**SMALL, "mlp_layer": "swiglu", "global_pool": "map"}),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swinv2": ("swinv2_tiny_window8_256", {**SWIN, "scan": True}),
}


def image_of(module):
    return jax.ShapeDtypeStruct((1, module.img_size, module.img_size, module.in_chans), "float32")


def shapes_of(module):
    return jax.eval_shape(module.init, jax.random.key(0), image_of(module))["params"]


def adapters_of(module, targets, rank, alpha=None):
    rules = param_rules.rules(shapes_of(module))
    return find_adapters(rules, lora.linear_maps(module, image_of(module)), targets, rank, alpha)


@pytest.mark.parametrize("scan", [False, True])
def test_the_number_of_trained_parameters(scan):
    """Each of Q, K, V, O of 24 layers has A and B of 8 x 1024: 24 * 4 * 2 * 8 * 1024."""
    module = vit_jax.create_model("vit_large_patch16_224", scan=scan)
    adapters = adapters_of(module, ("q", "k", "v", "o"), rank=8)
    params = shapes_of(module)
    with_adapters = jax.eval_shape(lambda p: lora.draw(jax.random.key(0), p, adapters), params)
    plain, added = lora.apart(with_adapters)
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(added)) == 1_572_864


def drawn(module, adapters, seed=0):
    """Every parameter and every adapter at random, in float64, and images."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda p: lora.draw(jax.random.key(0), p, adapters), shapes_of(module))
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape)), shapes)
    return params, jnp.asarray(rng.normal(size=(2, module.img_size, module.img_size, 3)))


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("unrolled", ("q", "v")),
        ("scanned", ALL),
        ("swiglu", (*ALL, "attn_pool/*")),
        ("swin", ALL),
        ("swinv2", ("k", "o", "*/reduction")),
    ],
)
def test_the_merged_model_computes_the_same(name, targets):
    model, options = MODELS[name]
    module = vit_jax.create_model(model, **options)
    adapters = adapters_of(module, targets, rank=3, alpha=6)
    with jax.enable_x64(True):
        params, images = drawn(module, adapters)
        plain, _ = lora.apart(params)
        without = apply(module, plain, images)
        with lora.adapt(adapters):
            adapted = apply(module, params, images)
        merged = lora.merge(params, adapters)
        assert jax.tree.structure(merged) == jax.tree.structure(plain)
        np.testing.assert_allclose(apply(module, merged, images), adapted, rtol=1e-12, atol=1e-12)
        assert np.abs(adapted - without).max() > 1e-3


@pytest.mark.parametrize("scan", [False, True])
def test_each_adapted_matrix_is_that_of_the_paper(scan):
    """W + alpha / r * A B, matrix by matrix in NumPy; the keys' is not adapted."""
    module = vit_jax.create_model("vit_tiny_patch16_224", **SMALL, scan=scan)
    adapters = adapters_of(module, ("q", "v", "o", "fc1"), rank=3, alpha=6)
    with jax.enable_x64(True):
        params, _ = drawn(module, adapters)
        merged = lora.merge(params, adapters)
        if scan:
            params, merged = unstack_blocks(params), unstack_blocks(merged)
    before, after = (tree["encoder"]["blocks_1"] for tree in (params, merged))
    matrix = lambda x, rows: np.asarray(x).reshape(rows, -1)  # noqa: E731
    for layer in (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        old, new = (block[layer[0]][layer[1]] for block in (before, after))
        w, found = np.asarray(old["kernel"]), np.asarray(new["kernel"])
        a, b = (np.asarray(old.get(name)) for name in (lora.A, lora.B))
        if layer[1] == "fc2":
            np.testing.assert_array_equal(found, w)
        elif layer[1] == "qkv":
            for i, part in enumerate((0, 2)):
                expected = matrix(w[:, part], 16) + 2 * a[:, i] @ matrix(b[i], 3)
                np.testing.assert_allclose(matrix(found[:, part], 16), expected, atol=1e-12)
            np.testing.assert_array_equal(found[:, 1], w[:, 1])
        else:
            expected = matrix(w, 16) + 2 * matrix(a, 16) @ matrix(b, 3)
            np.testing.assert_allclose(matrix(found, 16), expected, atol=1e-12)


def test_a_new_adapter_changes_nothing_and_has_the_variance_it_says():
    module = vit_jax.create_model("vit_tiny_patch16_224", depth=1, embed_dim=384, num_heads=2)
    adapters = adapters_of(module, ALL, rank=16)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes_of(module))
    new = lora.draw(jax.random.key(1), params, adapters)
    for path, leaf in traverse_util.flatten_dict(lora.apart(new)[1]).items():
        if path[-1] == lora.B:
            assert not np.any(leaf)
        else:
            inputs = {"qkv": 384, "proj": 384, "fc1": 384, "fc2": 1536}[path[-2]]
            assert np.std(leaf) == pytest.approx(inputs**-0.5, rel=0.05)
    merged = lora.merge(new, adapters)
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_gradients_are_those_of_the_merged_model():
    """dL/dA and dL/dB by the chain rule through W + alpha / r * A B."""
    model, options = MODELS["scanned"]
    module = vit_jax.create_model(model, **options)
    adapters = adapters_of(module, ALL, rank=2)
    with jax.enable_x64(True):
        params, images = drawn(module, adapters)
        plain, added = lora.apart(params)

        def adapted(added):
            with lora.adapt(adapters):
                return apply(module, lora.together(plain, added), images).var()

        def merged(added):
            params = lora.merge(lora.together(plain, added), adapters)
            return apply(module, params, images).var()

        ours, theirs = (jax.jit(jax.grad(loss))(added) for loss in (adapted, merged))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), ours, theirs
        )


def test_dropout_is_of_what_enters_the_adapters_alone():
    model, options = MODELS["scanned"]
    module = vit_jax.create_model(model, **options)
    adapters = adapters_of(module, ("fc2",), rank=2)
    params, images = drawn(module, adapters)
    images = images.astype("f4")

    def outputs(params, seed):
        with lora.adapt(adapters, drop=0.5):
            return module.apply(
                {"params": lora.with_keys(params, adapters, jax.random.key(seed))}, images
            )

    same, other = outputs(params, 0), outputs(params, 1)
    np.testing.assert_array_equal(same, outputs(params, 0))
    assert not np.allclose(same, other)
    with lora.adapt(adapters, drop=0.5):  # without keys there is none
        np.testing.assert_allclose(
            apply(module, params, images),
            apply(module, lora.merge(params, adapters), images),
            rtol=2e-5,
            atol=1e-5,
        )
    nothing = jax.tree.map(jnp.zeros_like, lora.apart(params)[1])
    zeroed = lora.together(lora.apart(params)[0], nothing)
    np.testing.assert_array_equal(outputs(zeroed, 0), outputs(zeroed, 1))
    # In a stack each layer drops its own elements.
    keys = [
        leaf
        for path, leaf in traverse_util.flatten_dict(
            lora.with_keys(params, adapters, jax.random.key(0))
        ).items()
        if path[-1] == lora.KEY
    ]
    rows = np.concatenate([np.reshape(key, (-1, np.shape(key)[-1])) for key in keys])
    assert len(np.unique(rows, axis=0)) == len(rows) == SMALL["depth"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((), "lora.targets is empty"),
        (("query",), "unknown target of lora.targets 'query'"),
        (("encoder/blocks_*/mlp/fc3",), r"no linear map \(lora.targets\) fits .*mlp/fc"),
        (("patch_embed*",), "no linear map"),
        (("encoder/blocks_0/*",), "scanned together: take all of them, or set model.scan=False"),
    ],
)
def test_targets_that_are_not_there(targets, message):
    module = vit_jax.create_model(*MODELS["scanned"][:1], **MODELS["scanned"][1])
    with pytest.raises(UserError, match=message):
        adapters_of(module, targets, rank=2)


# Runs. The base is a run of its own, exported to a folder.


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from vit_jax.convert import folder
    from vit_jax.training.trained import trained_model

    place = tmp_path_factory.mktemp("base")
    config = tiny.get_config()
    config.total_steps, config.eval_every_steps, config.checkpoint.every_steps = 2, None, None
    config.schedule.warmup_steps = 0
    vit_jax.train(config, place / "run")
    folder.save(place / "model", trained_model(place / "run", report=lambda text: None))
    return place / "model"


def lora_config(base, **options):
    config = tiny.get_config()
    config.init_from = str(base)
    config.total_steps, config.eval_every_steps = 4, None
    config.checkpoint.every_steps, config.checkpoint.keep_last = 2, 3
    config.lora.update(rank=2, targets=("q", "v", "fc1"), dropout=0.1, **options)
    return config


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    config = lora_config(base, save_only_adapters=True)
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    return config, workdir, vit_jax.train(config, workdir)


def leaves(tree):
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def test_a_run_trains_adapters_and_head_and_nothing_else(base, run):
    from vit_jax.convert import folder

    _, workdir, result = run
    assert {name.rsplit("/", 1)[-1] for name in leaves(result.state.params)} == {
        "lora_a",
        "lora_b",
        "bias",
        "kernel",
    }
    frozen, source = leaves(result.state.extra["frozen"]), leaves(folder.read(base).params)
    assert set(source) - set(frozen) == {"head/kernel", "head/bias"}
    for name, leaf in frozen.items():
        np.testing.assert_array_equal(leaf, source[name])
    moved = leaves(result.state.params)
    assert all(np.any(leaf) for name, leaf in moved.items() if name.endswith("lora_b"))
    assert jax.tree.structure(result.state.ema) == jax.tree.structure(result.state.params)
    # Two moments of what is trained, and not one of what is frozen.
    trained = sum(leaf.size for leaf in jax.tree.leaves(result.state.params))
    moments = sum(leaf.size for leaf in jax.tree.leaves(result.state.opt_state) if leaf.ndim)
    assert moments == 2 * trained
    names = json.loads((workdir / "checkpoints/4/record/metadata").read_text())["content"]["arrays"]
    assert not any(".frozen." in name for name in names)
    assert any(name.startswith("params.head") for name in names)


def test_evaluation_and_export_see_the_merged_model(run):
    from vit_jax.training import run_folder
    from vit_jax.training.evaluation import evaluate
    from vit_jax.training.experiment import Experiment
    from vit_jax.training.trained import trained_model

    _, workdir, result = run
    found = evaluate(workdir, report=lambda text: None)
    assert found == pytest.approx(result.metrics, rel=1e-5)
    model = trained_model(workdir, report=lambda text: None)
    assert set(leaves(model.params)) == set(leaves(shapes_of(model.module)))
    objective = Experiment(run_folder.read_config(workdir)).objective
    state = jax.device_get(result.state)
    params, _ = objective.open(state.ema, state.extra)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("f4")
    with lora.adapt(objective.inner.adapters):
        expected = apply(model.module, params, images)
    merged = apply(model.module, model.params, images)
    np.testing.assert_allclose(merged, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
    without = apply(model.module, lora.apart(params)[0], images)
    assert not np.allclose(without, expected, rtol=2e-5)


def without_last_checkpoint(run, tmp_path):
    config, workdir, _ = run
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "4")
    return copy, config.copy_and_resolve_references()


def test_a_resumed_run_reads_its_base_again(run, tmp_path):
    workdir, config = without_last_checkpoint(run, tmp_path)
    again = vit_jax.train(config, workdir)
    for a, b in zip(jax.tree.leaves(again.state), jax.tree.leaves(run[2].state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_base_that_is_not_what_it_was(run, base, tmp_path, what):
    import dataclasses

    from vit_jax.convert import folder

    workdir, config = without_last_checkpoint(run, tmp_path)
    aside = tmp_path / "aside"
    shutil.move(base, aside)
    try:
        message = "adapters only.*as when the run began"
        if what == "changed":
            model = folder.read(aside)
            params = traverse_util.flatten_dict(model.params)
            params["encoder", "blocks", "norm1", "scale"] = params[
                "encoder", "blocks", "norm1", "scale"
            ] * np.float32(1 + 1e-6)
            model = dataclasses.replace(model, params=traverse_util.unflatten_dict(params))
            folder.save(base, model)
            message = "adapters only.*encoder/blocks/norm1/scale is not what it was"
        with pytest.raises(UserError, match=message):
            vit_jax.train(config, workdir)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.move(aside, base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.lora.update(trained=("haed/*",)), r"\(lora.trained\).*'haed/\*'.*'head/"),
        (lambda c: c.optim.update(frozen=("head/*",)), "has no effect with lora.rank=2"),
        (lambda c: c.update(init_from=None), "save_only_adapters leaves out .* init_from is None"),
        (lambda c: c.lora.update(rank=None), "needs lora.rank, which is None"),
        (lambda c: c.lora.update(rank=0), "lora.rank is 0; expected a whole number, 1 or more"),
        (lambda c: c.lora.update(dropout=1.0), "lora.dropout is 1.0; expected a number, 0 <= x"),
    ],
)
def test_mistakes_are_named(base, tmp_path, change, message):
    config = lora_config(base, save_only_adapters=True)
    with config.ignore_type():
        change(config)
    with pytest.raises(UserError, match=message):
        vit_jax.train(config, tmp_path / "run")


@pytest.mark.slow
def test_digits_are_learned_by_adapters_alone(tmp_path):
    """From a run that has seen the digits for a while, with its head as it was: adapters go on."""
    config = load_config(REPOSITORY / "configs" / "digits.py")
    config.total_epochs, config.total_steps = None, 100
    config.schedule.update(warmup_epochs=None, warmup_steps=10)
    config.eval_every_epochs = config.checkpoint.every_epochs = None
    config.ema_decay = 0.0
    base = vit_jax.train(config, tmp_path / "base")
    config.init_from = str(tmp_path / "base")
    config.optim.lr, config.optim.weight_decay = 1e-2, 0.0
    config.lora.update(rank=8, targets=ALL, trained=())
    result = vit_jax.train(config, tmp_path / "lora")
    assert all(name.rsplit("/", 1)[-1] in (lora.A, lora.B) for name in leaves(result.state.params))
    source = leaves(base.state.params)
    for name, leaf in leaves(result.state.extra["frozen"]).items():
        np.testing.assert_array_equal(leaf, source[name])
    assert result.metrics["loss"] < base.metrics["loss"]
    # By two standard errors of a difference of shares of 360 pictures.
    assert result.metrics["top1"] > base.metrics["top1"] + 2 * (2 * 0.25 / 360) ** 0.5
