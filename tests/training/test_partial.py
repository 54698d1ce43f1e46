"""Freezing by pattern: what is frozen keeps its bits and takes no memory of the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from tests.training import tiny
from vit_jax.errors import UserError
from vit_jax.models import unstack_blocks
from vit_jax.objectives import build_objective
from vit_jax.training.experiment import Experiment, build_module
from vit_jax.training.partial import freeze_patterns
from vit_jax.training.resolve import resolve
from vit_jax.training.trained import trained_model

pytestmark = pytest.mark.slow


def flat(tree):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


def frozen_config(scan, patterns):
    config = tiny.get_config()
    config.total_steps, config.eval_every_steps = 4, None
    config.checkpoint.every_steps = 2
    config.model.update(scan=scan, drop_rate=0.0, proj_drop_rate=0.0, drop_path_rate=0.0)
    config.data.train_transform = "resize"
    config.optim.frozen = patterns
    return config


PATTERNS = ("patch_embed/*", "encoder/blocks_0/*", "encoder/blocks_1/attn/*")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same steps, scanned on a mesh and unrolled on one device's layout."""
    found = {}
    for scan in (True, False):
        config = frozen_config(scan, PATTERNS)
        if scan:
            config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
        workdir = tmp_path_factory.mktemp("run")
        first = Experiment(resolve(config, 1437, 10)).state_factory.create()
        found[scan] = workdir, first, vit_jax.train(config, workdir).state
    return found


@pytest.mark.parametrize("scan", [True, False])
def test_what_is_frozen_is_not_trained_averaged_or_kept_moments_of(runs, scan):
    _, first, last = runs[scan]
    frozen, trained = flat(last.extra["frozen"]), flat(last.params)
    blocks = ["encoder/blocks_0/mlp/fc1/kernel", "encoder/blocks_0/attn/qkv/kernel"]
    if scan:  # of these arrays all layers are frozen, and none is cut
        blocks[1] = "encoder/blocks/attn/qkv/kernel"
    assert set(frozen) >= {"patch_embed/kernel", *blocks}
    assert set(trained) >= {"encoder/blocks_1/mlp/fc1/kernel", "head/kernel", "pos_embed/table"}
    assert not set(frozen) & set(trained)
    for name, leaf in flat(first.extra["frozen"]).items():
        np.testing.assert_array_equal(frozen[name], leaf)
    before = flat(first.params)
    assert all(not np.array_equal(trained[name], before[name]) for name in trained)
    moments = sum(leaf.size for leaf in jax.tree.leaves(last.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in trained.values())
    assert set(flat(last.ema)) == set(trained)


def loss_and_gradient(whole, scan):
    """Of the trained part, from the given parameters of the whole model."""
    config = frozen_config(scan, PATTERNS)
    config.model.num_classes = 10
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("f4")
    batch = {"image": jnp.asarray(images), "label": jnp.arange(4)}
    objective = build_objective(config, build_module(config.model))
    partial = freeze_patterns(objective, batch, PATTERNS)
    shapes = jax.eval_shape(partial.init, jax.random.key(0), batch)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    params, extra = partial.with_module_params(*zeros, whole)
    jax.tree.map(np.testing.assert_array_equal, partial.all_params(params, extra), whole)
    loss = jax.jit(lambda p: partial.loss(p, extra, batch, jax.random.key(0), 0)[0])
    value, gradient = jax.value_and_grad(loss)(params)
    return float(value), flat(gradient)


def test_scanned_is_unrolled(runs):
    """Loss and gradient, layer by layer, from the same parameters."""
    shapes = jax.tree.map(np.shape, trained_model(runs[True][0], report=lambda text: None).params)
    rng = np.random.default_rng(1)
    whole = jax.tree.map(
        lambda shape: rng.normal(size=shape).astype("f4"),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    scanned, gradient = loss_and_gradient(whole, True)
    unrolled, expected = loss_and_gradient(jax.tree.map(np.asarray, unstack_blocks(whole)), False)
    assert scanned == pytest.approx(unrolled, rel=1e-5)
    assert set(gradient) == set(expected)
    for name, found in gradient.items():
        np.testing.assert_allclose(found, expected[name], atol=2e-5 * np.abs(expected[name]).max())


def test_a_resumed_run_ends_the_same(runs):
    import shutil

    workdir, _, last = runs[True]
    shutil.rmtree(workdir / "checkpoints" / "4")
    config = frozen_config(True, PATTERNS)
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    again = vit_jax.train(config, workdir).state
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(last), strict=True):
        np.testing.assert_array_equal(a, b)


def test_export_and_a_start_from_it_have_all_parameters(runs, tmp_path):
    from vit_jax.convert import folder
    from vit_jax.training.init_from import initial_state

    model = trained_model(runs[True][0], report=lambda text: None)
    folder.save(tmp_path / "model", model)
    config = frozen_config(True, PATTERNS)
    config.init_from = str(tmp_path / "model")
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    experiment = Experiment(resolve(config, 1437, 10))
    with experiment.activate():
        state = initial_state(experiment, tmp_path, lambda text: None)
    places = jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.extra))
    shardings = experiment.state_factory.shardings
    assert jax.tree.leaves(places) == jax.tree.leaves((shardings.params, shardings.extra))
    found = flat(experiment.objective.exported_params(state.params, state.extra))
    expected = flat(model.params)
    assert set(found) == set(expected)
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[name])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("pach_embed/*",), r"\(optim.frozen\) fits the pattern 'pach_embed/\*'.*'patch_embed/"),
        (("encoder/blocks_2/*",), "optim.frozen.*encoder/blocks_"),
        (("*",), "every parameter is frozen"),
        ("head/*", r"optim.frozen is 'head/\*'; expected a tuple of names or patterns"),
    ],
)
def test_mistakes_are_named(tmp_path, patterns, message):
    config = frozen_config(True, ())
    with config.ignore_type():
        config.optim.frozen = patterns
    with pytest.raises(UserError, match=message):
        vit_jax.train(config, tmp_path / "run")


def test_patterns_from_the_command_line():
    from vit_jax.training import overrides

    config = tiny.get_config()
    overrides.apply(config, "optim.frozen=('encoder/*',)")
    overrides.apply(config, "optim.lr_scales=(('head/*', 10),)")
    resolve(config, 1437, 10)
    assert config.optim.frozen == ("encoder/*",)
    assert config.optim.lr_scales == (("head/*", 10),)
