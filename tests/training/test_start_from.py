"""A recipe that starts from weights describes their network and how it is fed."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from tests.training import tiny
from tests.visualize.tiny import MAE, SWIN, drawn, vit
from vit_jax.convert import folder
from vit_jax.convert.export import export
from vit_jax.data import eval_transform
from vit_jax.errors import UserError
from vit_jax.models import Preprocessing
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import initial_state
from vit_jax.training.resolve import resolve

# Nothing is as the recipe has it, or as the name's defaults are.
ODD = dict(num_classes=3, qkv_bias=False, reg_tokens=2, init_values=0.1, mlp_ratio=3.0)
FED = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.8, "squash")


def flat(params):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}


def first_params(config):
    experiment = Experiment(resolve(config, 1437, 10))
    with experiment.activate():
        state = initial_state(experiment, None, lambda text: None)
    return experiment, flat(state.params)


@pytest.fixture
def recipe():
    config = tiny.get_config()
    config.model.scan = False
    return config


@pytest.mark.parametrize("model", [vit(**ODD), drawn("swin_tiny_patch4_window7_224", **SWIN)])
def test_the_first_parameters_are_the_source_s_but_for_the_head(model, recipe, tmp_path):
    model = dataclasses.replace(model, preprocessing=FED)
    folder.save(tmp_path / "weights", model)
    before = recipe.to_json()
    config = vit_jax.start_from(recipe, tmp_path / "weights")
    assert recipe.to_json() == before and config.init_from == str(tmp_path / "weights")
    experiment, params = first_params(config)
    for path, leaf in flat(model.params).items():
        if path.startswith("head/"):
            assert params[path].shape[-1] == 10
        else:
            np.testing.assert_array_equal(params[path], leaf, err_msg=path)
    assert experiment.mean_std == (FED.mean, FED.std)
    assert config.data.eval_transform == eval_transform(FED)
    assert config.data.interpolation == "bilinear"


def test_how_the_recipe_runs_a_model_stays(recipe, tmp_path):
    recipe.model.update(drop_path_rate=0.2, scan=True, dtype="bfloat16", num_classes=12)
    folder.save(tmp_path / "weights", vit(**ODD))
    config = vit_jax.start_from(recipe, tmp_path / "weights")
    module = Experiment(resolve(config, 1437, 10)).module
    assert (module.drop_path_rate, module.scan, module.dtype) == (0.2, True, "bfloat16")
    assert (module.num_classes, module.reg_tokens, module.in_chans) == (12, 2, 3)
    with pytest.raises(AttributeError):
        config.init_changes.drwan = ("head/*",)


@pytest.mark.slow
def test_other_libraries_weights_and_runs_of_ours(recipe, tmp_path):
    export(vit(img_size=8, patch_size=2), tmp_path / "timm", "timm")
    config = vit_jax.start_from(recipe, tmp_path / "timm")
    config.data.batch_size = config.data.eval_batch_size = 16
    config.total_steps, config.accumulate_steps, config.eval_every_steps = 1, 1, None
    config.schedule.warmup_steps = 0
    vit_jax.train(config, tmp_path / "run")
    again = vit_jax.start_from(recipe, tmp_path / "run")
    assert dict(again.model) == {**config.model, "num_classes": None}
    run = vit_jax.open_model(tmp_path / "run")
    _, params = first_params(again)
    for path, leaf in flat(run.params).items():
        if not path.startswith("head/"):
            np.testing.assert_array_equal(params[path], leaf, err_msg=path)
    assert jax.tree.structure(params) == jax.tree.structure(flat(run.params))


def test_a_masked_autoencoder_leaves_too_much_open(recipe, tmp_path):
    folder.save(tmp_path / "mae", drawn("mae_vit_tiny_patch16", **MAE))
    with pytest.raises(UserError, match=r"masked autoencoder.*configs/mae_b16_finetune\.py"):
        vit_jax.start_from(recipe, tmp_path / "mae")
