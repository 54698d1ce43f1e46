"""Training that starts from converted weights, and what it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from tests.training import tiny
from vit_jax.convert import folder
from vit_jax.convert.export import export
from vit_jax.errors import UserError
from vit_jax.training.checkpoint import saved_steps
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import REPORT, initial_state
from vit_jax.training.resolve import resolve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A converted model of the recipe's kind, unrolled, every parameter drawn."""
    model = dict(tiny.get_config().model) | {"scan": False, "num_classes": 10}
    module = vit_jax.create_model(model.pop("name"), **model)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"]
    )
    path = tmp_path_factory.mktemp("source") / "model"
    preprocessing = vit_jax.preprocessing("vit_tiny_patch16_224")
    folder.save(path, folder.Model(module, params, preprocessing))
    return path


@pytest.fixture
def config(source):
    config = tiny.get_config()
    config.init_from = str(source)
    return config


def first_state(config, tmp_path, said=None):
    experiment = Experiment(resolve(config, 1437, 10))
    with experiment.activate():
        return initial_state(experiment, tmp_path, (said if said is not None else []).append)


def flat(params):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}


def test_parameters_and_their_average_are_those_of_the_source(config, source, tmp_path):
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    state = first_state(config, tmp_path)
    theirs = folder.read(source).params["encoder"]
    stacked = np.stack([theirs[f"blocks_{i}"]["mlp"]["fc1"]["kernel"] for i in range(2)])
    for params in (state.params, state.ema):
        kernel = params["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        np.testing.assert_array_equal(kernel, stacked)
        assert not kernel.sharding.is_fully_replicated
    report = json.loads((tmp_path / REPORT).read_text())
    assert sorted(report["taken"]) == sorted(flat(state.params))
    assert not report["drawn"] + report["resampled"] + report["left_out"]


def test_other_classes_resolution_and_patches_have_to_be_announced(config, source, tmp_path):
    config.model.update(num_classes=7, img_size=24, patch_size=4)
    with pytest.raises(UserError, match=r"resampled=\('patch_embed/\*', 'pos_embed/\*'\)"):
        first_state(config, tmp_path)
    config.init_changes.resampled = ("patch_embed/*", "pos_embed/*")
    with pytest.raises(UserError, match=r"2 parameters .* drawn anew.*drawn=\('head/\*',\)"):
        first_state(config, tmp_path)
    config.init_changes.drawn = ("head/*",)
    said = []
    experiment = Experiment(resolve(config, 1437, 7))
    with experiment.activate():
        drawn = experiment.state_factory.create()
        state = initial_state(experiment, tmp_path, said.append)
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["drawn"] == ["head/bias", "head/kernel"]
    assert report["resampled"] == ["patch_embed/kernel", "pos_embed/table"]
    for name in report["drawn"] + report["resampled"]:
        assert name in said[0]
    np.testing.assert_array_equal(state.params["head"]["kernel"], drawn.params["head"]["kernel"])
    assert state.params["pos_embed"]["table"].shape == (1, 36, 32)
    taken, theirs = flat(state.params), flat(folder.read(source).params)
    np.testing.assert_array_equal(taken["fc_norm/scale"], theirs["fc_norm/scale"])


def test_what_is_left_out_and_idle_patterns_have_to_be_right(config, tmp_path):
    config.model.pos_embed = "sincos_2d"
    config.init_changes.hyper_parameters = ("pos_embed",)
    with pytest.raises(UserError, match=r"left_out=\('pos_embed/\*',\)"):
        first_state(config, tmp_path)
    config.init_changes.left_out = ("pos_embed/*",)
    first_state(config, tmp_path)
    config.init_changes.drawn = ("heads/*",)
    with pytest.raises(UserError, match=r"drawn=\('heads/\*',\) names no parameter at all"):
        first_state(config, tmp_path)


def test_a_head_that_would_fit_is_drawn_where_that_is_said(config, source, tmp_path):
    taken, theirs = flat(first_state(config, tmp_path).params), flat(folder.read(source).params)
    np.testing.assert_array_equal(taken["head/kernel"], theirs["head/kernel"])
    config.init_changes.drawn = ("head/*",)
    said = []
    drawn = flat(first_state(config, tmp_path, said).params)
    assert "2 drawn: head/bias, head/kernel" in said[0]
    fresh = flat(Experiment(resolve(tiny.get_config(), 1437, 10)).state_factory.create().params)
    for path, leaf in drawn.items():
        expected = fresh if path.startswith("head/") else taken
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_another_network_of_the_same_shapes_is_refused(config, tmp_path):
    config.model.norm_eps = 1e-12
    with pytest.raises(UserError, match=r"norm_eps is 1e-06 there, 1e-12 here.*--config\.model"):
        first_state(config, tmp_path)
    config.init_changes.hyper_parameters = ("norm_eps", "act_layer")
    with pytest.raises(UserError, match=r"\['act_layer'\], in which .* do not differ"):
        first_state(config, tmp_path)
    config.init_changes.hyper_parameters = ("norm_eps",)
    first_state(config, tmp_path)


def test_a_run_resumes_without_its_source(config, source, tmp_path):
    elsewhere = tmp_path / "copy"
    shutil.copytree(source, elsewhere)
    config.init_from = str(elsewhere)
    config.total_steps, config.eval_every_steps = 6, None
    whole = vit_jax.train(config, tmp_path / "whole")
    vit_jax.train(config, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in saved_steps(checkpoints)[1:]:
        shutil.rmtree(checkpoints / str(step))
    shutil.rmtree(elsewhere)
    resumed = vit_jax.train(config, tmp_path / "run")
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state)):
        np.testing.assert_array_equal(a, b)


def test_a_source_that_is_not_there(config, tmp_path):
    config.init_from = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing"):
        vit_jax.train(config, tmp_path / "run")


def test_how_positions_are_resampled_is_compared_where_it_matters(config, source, tmp_path):
    config.model.pos_resample = "bicubic_offset"
    first_state(config, tmp_path)  # the same grid: nothing is resampled
    config.model.img_size = 12
    config.init_changes.resampled = ("pos_embed/*",)
    told = "pos_resample is 'bicubic_antialias' there, 'bicubic_offset' here"
    with pytest.raises(UserError, match=told):
        first_state(config, tmp_path)
    config.init_changes.hyper_parameters = ("pos_resample",)
    first_state(config, tmp_path)
    config.model.img_size = 8
    config.init_changes.resampled = ()
    with pytest.raises(UserError, match="do not differ"):
        first_state(config, tmp_path)
    config.init_changes.hyper_parameters = ()
    config.model.dynamic_img_size = True
    with pytest.raises(UserError, match=told):
        first_state(config, tmp_path)


@pytest.mark.parametrize("img_size", [8, 12])
def test_a_file_without_a_name_is_the_runs_own_model(config, source, tmp_path, img_size):
    """Its sizes are the run's, which no name has; where they do not fit, the error says so."""
    export(folder.read(source), tmp_path / "out", "timm")
    (tmp_path / "out" / "config.json").unlink()
    config.init_from = str(tmp_path / "out" / "model.safetensors")
    config.model.img_size = img_size
    if img_size == 8:
        state = first_state(config, tmp_path / "run")
        kernel = state.params["head"]["kernel"]
        np.testing.assert_array_equal(kernel, folder.read(source).params["head"]["kernel"])
    else:
        with pytest.raises(UserError, match="patch_size=2"):
            first_state(config, tmp_path / "run")
