"""A classifier that starts from the encoder of a masked autoencoder: of a run, or converted."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from tests.training import mae_run
from vit_jax.cli import main as cli
from vit_jax.errors import UserError
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import REPORT, initial_state
from vit_jax.training.resolve import resolve
from vit_jax.training.trained import trained_model

pytestmark = pytest.mark.slow


def tuning(**model):
    config = mae_run.on_digits()
    config.model.update(name="vit_tiny_patch16_224", scan=True, **mae_run.SIZES, **model)
    config.total_steps = 2
    config.init_changes.left_out = ("decoder/*",)
    config.init_changes.drawn = ("head/*",)
    return config


@pytest.fixture(scope="module")
def run():
    return mae_run.finished()[1]


@pytest.fixture(scope="module")
def converted(run, tmp_path_factory):
    """What the command writes of the run's model."""
    output = tmp_path_factory.mktemp("converted") / "model"
    assert cli.main(["export", str(run), "--format", "vit_jax", "--output", str(output)]) == 0
    return output


def start(config, workdir, said=None):
    experiment = Experiment(resolve(config, 1437, 10))
    with experiment.activate():
        return initial_state(experiment, workdir, (said if said is not None else []).append)


def flat(params):
    return {k: np.asarray(x) for k, x in traverse_util.flatten_dict(params, sep="/").items()}


@pytest.mark.parametrize("kind", ["run", "converted"])
def test_the_encoder_is_taken_and_the_head_is_drawn(request, tmp_path, run, kind):
    source = request.getfixturevalue(kind)
    config, said = tuning(), []
    config.init_from = str(source)
    found = flat(start(config, tmp_path, said).params)
    model = trained_model(run, report=lambda text: None)  # the running average
    theirs = flat(vit_jax.models.stack_blocks(model.params))
    assert set(found) == {k for k in theirs if not k.startswith("decoder/")} | {
        "head/bias",
        "head/kernel",
    }
    for path, value in found.items():
        expected = 0 if path.startswith("head/") else theirs[path]  # a head begins at zero
        np.testing.assert_array_equal(value, expected, err_msg=path)
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["drawn"] == ["head/bias", "head/kernel"]
    left_out = {path.split("/")[0] for path in report["left_out"]}
    assert left_out == {"decoder"}
    assert "left out: decoder/" in said[0]


def test_what_is_not_said_is_refused(tmp_path, run):
    config = tuning()
    config.init_from = str(run)
    config.init_changes.left_out = ()
    with pytest.raises(UserError, match=r"left out: .*left_out=\('decoder/\*',\)"):
        start(config, tmp_path)
    config = tuning(norm_eps=1e-5)
    config.init_from = str(run)
    with pytest.raises(UserError, match=r"norm_eps is 1e-06 there, 1e-05 here"):
        start(config, tmp_path)


def test_the_mean_of_the_patches_has_a_norm_of_its_own(tmp_path, run):
    """As in the authors' fine-tuning: the norm before is left out, the one after is drawn."""
    config = tuning(global_pool="avg")
    config.init_from = str(run)
    with pytest.raises(UserError, match="fc_norm/"):
        start(config, tmp_path)
    config.init_changes.left_out = ("decoder/*", "norm/*")
    config.init_changes.drawn = ("head/*", "fc_norm/*")
    state = start(config, tmp_path)
    np.testing.assert_array_equal(state.params["fc_norm"]["scale"], 1)


def test_the_authors_encoder_without_its_decoder(tmp_path):
    """It pools as the run's model does: in pre-training it did not."""
    sizes = dict(img_size=8, patch_size=4, embed_dim=512, depth=1, num_heads=16)
    options = dict(num_classes=0, pos_embed="sincos_2d_table")
    module = vit_jax.create_model("vit_base_patch16_224", **sizes, **options)
    variables = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    output, prep = tmp_path / "written", "mae_vit_base_patch16"
    vit_jax.save_pretrained(output, module, variables, format="mae", preprocessing=prep)
    config = tuning(global_pool="avg")
    config.model.update(name="vit_base_patch16_224", in_chans=3, scan=False, **sizes)
    config.data.update(mean=(0.5,) * 3, std=(0.5,) * 3)
    config.init_from = str(output / "model.pth")
    config.init_changes.left_out = ("norm/*",)
    config.init_changes.drawn = ("head/*", "fc_norm/*")
    found = start(config, tmp_path).params
    expected = variables["params"]["encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(found["encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"], expected)
    np.testing.assert_array_equal(
        found["pos_embed"]["table"], variables["params"]["pos_embed"]["table"]
    )


def test_another_resolution(tmp_path, run):
    """Positions, which the classifier learns, are resized."""
    config = tuning()
    config.model.img_size = 12
    config.init_from = str(run)
    config.init_changes.resampled = ("pos_embed/*",)
    state = start(config, tmp_path)
    assert state.params["pos_embed"]["table"].shape == (1, 37, 16)


def test_a_masked_autoencoder_goes_on_from_another(tmp_path, run, converted):
    config = mae_run.get_config()
    config.init_from = str(run)
    state = start(config, tmp_path)
    model = trained_model(run, report=lambda text: None)
    for path, value in flat(state.params).items():
        np.testing.assert_array_equal(value, flat(model.params)[path], err_msg=path)
    module, variables = vit_jax.from_pretrained(converted, img_size=16)
    assert variables["params"]["decoder"]["pos_embed"]["table"].shape == (1, 65, 8)
    images = np.zeros((1, 16, 16, 1), np.float32)
    noise = np.random.default_rng(0).random((1, 64))
    output = jax.eval_shape(lambda v: module.apply(v, images, noise=noise), variables)
    assert output.prediction.shape == (1, 64, 4)
