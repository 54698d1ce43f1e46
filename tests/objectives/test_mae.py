"""Masked autoencoding: the loss by hand, its masks, and a run from the first step to a picture."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vit_jax
from tests.training import mae_run
from vit_jax.errors import UserError
from vit_jax.models.layers.patch import patchify
from vit_jax.models.layers.position import sincos_table
from vit_jax.models.mae import MaskedAutoencoderOutput
from vit_jax.objectives import build_objective, objective_defaults
from vit_jax.objectives.mae import EPSILON, fixed_noise, patch_statistics

TINY = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2)
DECODER = dict(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, mask_ratio=0.5)


def objective(**options):
    module = vit_jax.create_model("mae_vit_tiny_patch16", **TINY, **DECODER)
    return build_objective(types.SimpleNamespace(objective={"name": "mae", **options}), module)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def params(images):
    return jax.jit(objective().module.init)(jax.random.key(0), images)["params"]


# The loss.


@pytest.mark.parametrize("normed", [False, True])
def test_the_loss_is_that_of_masked_patches_alone(images, normed):
    """Against loops over patches, after `forward_loss` of the authors' code."""
    rng = np.random.default_rng(1)
    prediction = rng.normal(size=(3, 4, 16))
    mask = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], float)
    output = MaskedAutoencoderOutput(prediction, mask, None, None)
    found = objective(norm_pix_loss=normed)._per_example(output, images)
    for i in range(3):
        errors = []
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            patch = images[i, 4 * row :, 4 * column :][:4, :4, 0].astype(float)
            if normed:
                patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + EPSILON)
            where = 2 * row + column
            if mask[i, where]:
                errors.append(np.mean((prediction[i, where] - patch.ravel()) ** 2))
        assert found["loss"][i] == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_target_variance_is_the_loss_of_the_best_single_number(images):
    mask = np.array([[1, 0, 1, 0]] * 3, float)
    best = patchify(images, (4, 4))[:, ::2].mean(axis=(1, 2))[:, None, None]
    for shift in (0, 0.1, -0.1):
        prediction = np.broadcast_to(best + shift, (3, 4, 16))
        output = MaskedAutoencoderOutput(prediction, mask, None, None)
        found = objective()._per_example(output, images)
        np.testing.assert_allclose(found["loss"] - shift**2, found["target_variance"], rtol=1e-4)


def test_normalised_patches_have_mean_zero_and_variance_one(images):
    targets = objective(norm_pix_loss=True).targets(100 * images)
    np.testing.assert_allclose(targets.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(targets.var(axis=-1, ddof=1), 1, rtol=1e-5)
    flat = objective(norm_pix_loss=True).targets(jnp.ones_like(images))
    np.testing.assert_array_equal(flat, 0)  # and no division by zero


@pytest.mark.slow
def test_a_training_mask_is_a_function_of_the_key(images, params):
    step = jax.jit(objective().loss)
    keys = jax.random.split(jax.random.key(0))
    losses = [step(params, {}, {"image": images}, key, 0)[0] for key in (*keys, keys[0])]
    assert losses[0] == losses[2] != losses[1]


def test_the_mean_over_images_is_the_loss(images, params):
    step = jax.jit(jax.value_and_grad(objective().loss, has_aux=True))
    (loss, (metrics, extra)), gradient = step(params, {}, {"image": images}, jax.random.key(0), 0)
    assert metrics["loss"] == loss
    assert extra == {}
    assert not gradient["decoder"]["pos_embed"]["table"].any()
    assert np.abs(gradient["encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"]).max() > 0


# Evaluation.


def test_an_evaluation_masks_a_picture_as_always(images, params):
    """Whatever else is in the batch, and wherever in it the picture is."""
    evaluate = jax.jit(objective().evaluate)
    all_three = evaluate(params, {}, {"image": images})
    turned = evaluate(params, {}, {"image": images[::-1]})
    alone = evaluate(params, {}, {"image": images[1:2]})
    np.testing.assert_allclose(all_three["loss"], turned["loss"][::-1], rtol=1e-5)
    np.testing.assert_allclose(all_three["loss"][1], alone["loss"][0], rtol=1e-5)
    noise = fixed_noise(images, 16)
    assert len(np.unique(noise)) == noise.size  # every picture has a mask of its own


def test_options_and_modules():
    assert objective_defaults("mae") == {"norm_pix_loss": False}
    with pytest.raises(UserError, match="norm_pix_loss is 'yes'; expected True or False"):
        objective(norm_pix_loss="yes")
    plain = vit_jax.create_model("vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"not a VisionTransformer; set .*list_models\('mae_\*'\)"):
        build_objective(types.SimpleNamespace(objective={"name": "mae"}), plain)


# A run.


class FirstBatch:
    """What the loop lends, on one batch."""

    mean, std, extra = (0.5,), (0.25,), {}

    def __init__(self, params, images):
        self.params, self.images = params, images

    def on_first_batch(self, function):
        return jax.device_get(function(self.params, self.extra, {"image": self.images}))


@pytest.mark.parametrize("normed", [False, True])
def test_a_perfect_model_paints_the_original(images, params, monkeypatch, normed):
    """In both kinds of target: the statistics of a patch are put back."""
    learned = objective(norm_pix_loss=normed)

    def perfect(self, params, images):
        mask = jnp.tile(jnp.array([1.0, 0, 0, 1]), (len(images), 1))
        return MaskedAutoencoderOutput(self.targets(images), mask, None, None)

    monkeypatch.setattr(type(learned), "_fixed", perfect)
    sheet = learned.pictures(FirstBatch(params, images / 4))["reconstruction"]
    assert (sheet.dtype, sheet.shape) == (np.uint8, (3 * 10 + 2, 4 * 10 + 2, 1))
    original, masked, painted, pasted = (sheet[2:10, 2 + 10 * i :][:, :8] for i in range(4))
    np.testing.assert_allclose(painted.astype(int), original, atol=1)
    np.testing.assert_allclose(pasted.astype(int), original, atol=1)
    assert (masked != original).any()


def test_statistics_of_a_patch(images):
    mean, deviation = patch_statistics(patchify(images, (4, 4)))
    corner = images[1, :4, 4:].astype(float)
    assert mean[1, 1, 0] == pytest.approx(corner.mean(), rel=1e-5)
    assert deviation[1, 1, 0] ** 2 == pytest.approx(corner.var(ddof=1) + EPSILON, rel=1e-5)


@pytest.fixture(scope="module")
def run():
    return mae_run.finished()


@pytest.mark.slow
def test_a_run_learns_and_shows_pictures(run):
    result, workdir = run
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    shown = events.Images("test/reconstruction")
    assert [event.step for event in shown] == [3, 6]
    assert (shown[0].width, shown[0].height) == (4 * 10 + 2, 8 * 10 + 2)
    losses = [event.value for event in events.Scalars("test/loss")]
    assert losses[1] < losses[0]
    assert result.metrics["loss"] == pytest.approx(losses[1])
    assert vit_jax.evaluate(workdir)["loss"] == pytest.approx(losses[1], rel=1e-6)


def test_training_leaves_positions_as_they_were(run):
    """Weight decay and Adam included, to the bit."""
    result, _ = run
    params = result.state.params
    for table, width in ((params["pos_embed"], 16), (params["decoder"]["pos_embed"], 8)):
        expected = sincos_table("sincos_2d", (4, 4), width).astype(np.float32)
        np.testing.assert_array_equal(table["table"][0, 1:], expected)
        np.testing.assert_array_equal(table["table"][0, 0], 0)
