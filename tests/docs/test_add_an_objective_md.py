"""docs/add_an_objective.md from top to bottom; and its loss is what the paper says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.docs import markdown
from vit_jax.errors import UserError
from vit_jax.training.metrics import read_metrics

PAGE = "docs/add_an_objective.md"
TINY = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=32, depth=1, num_heads=2)


def test_the_page_from_top_to_bottom(checkout, call):
    names = markdown.run(PAGE, call)
    assert names["result"].completed
    evaluated = [
        line for line in read_metrics(checkout / "runs/rotation") if line["split"] == "test"
    ]
    assert evaluated[-1]["step"] == 3 and 0 <= evaluated[-1]["top1"] <= 1


@pytest.fixture
def rotation(checkout):
    markdown.write_files(PAGE, checkout)
    import rotation

    return rotation


def test_pictures_are_turned_as_numpy_turns_them(rotation):
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 3))
    expected = [np.rot90(image, k) for k, image in enumerate(images)]
    np.testing.assert_array_equal(
        rotation.turned(jnp.asarray(images), jnp.arange(4)), jnp.asarray(np.stack(expected))
    )


def test_loss_and_gradient_of_the_head_are_those_worked_out_by_hand(rotation):
    """A linear softmax classifier of fixed features: the gradient is features^T (p - targets)."""
    module = vit_jax.create_model("vit_tiny_patch16_224", **TINY, num_classes=0)
    objective, rng = rotation.Rotation(module), jax.random.key(3)
    batch = {"image": jax.random.normal(jax.random.key(0), (5, 8, 8, 1))}
    params, extra = jax.jit(objective.init)(jax.random.key(1), batch)
    kernel = jax.random.normal(jax.random.key(2), (32, 4))
    params = {**params, "turns": {**params["turns"], "kernel": kernel}}
    grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (loss, _), gradient = grad(params, extra, batch, rng, 0)

    turns = jax.random.randint(jax.random.split(rng)[0], (5,), 0, 4)
    variables = {"params": objective.module_params(params)}
    features = jax.jit(module.apply)(variables, rotation.turned(batch["image"], turns))
    p = jax.nn.softmax(features @ kernel)
    targets = jax.nn.one_hot(turns, 4)
    np.testing.assert_allclose(loss, -jnp.log((p * targets).sum(-1)).mean(), rtol=1e-5)
    by_hand = features.T @ (p - targets) / 5
    np.testing.assert_allclose(gradient["turns"]["kernel"], by_hand, rtol=1e-4, atol=1e-5)


def test_what_cannot_work_is_refused(rotation):
    with pytest.raises(UserError, match="num_classes=0, the features: got 10"):
        rotation.build_rotation(vit_jax.create_model("vit_tiny_patch16_224", num_classes=10))
    wide = vit_jax.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(32, 64))
    with pytest.raises(UserError, match="square"):
        rotation.build_rotation(wide)
