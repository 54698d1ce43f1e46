"""Linear probing: the batch norm against PyTorch's, and what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax
from vit_jax.errors import UserError
from vit_jax.objectives.linear_probe import build_linear_probe

MODEL = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=3)


def batch_of(rng, rows=6):
    image = jnp.asarray(rng.normal(size=(rows, 8, 8, 3)))
    return {"image": image, "label": jnp.asarray(rng.integers(3, size=rows))}


@pytest.fixture
def built():
    """Objective, drawn parameters and carried tree, in float64."""
    with jax.enable_x64(True):
        module = vit_jax.create_model("vit_tiny_patch16_224", **MODEL, drop_path_rate=0.5)
        objective = build_linear_probe(module)
        rng = np.random.default_rng(0)
        params, extra = objective.init(jax.random.key(0), batch_of(rng))
        params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
        extra = jax.tree.map(lambda x: x.astype(jnp.float64), extra)
        yield objective, params, extra, rng


def theirs(params, features):
    """PyTorch's BatchNorm1d without affine, and its linear layer."""
    norm = torch.nn.BatchNorm1d(8, eps=1e-6, affine=False).double()
    head = torch.nn.Linear(8, 3).double()
    head.weight.data = torch.tensor(np.asarray(params["head"]["kernel"]).T)
    head.bias.data = torch.tensor(np.asarray(params["head"]["bias"]))
    return norm, head


@pytest.mark.slow
def test_three_steps_and_an_evaluation_equal_pytorchs(built):
    objective, params, extra, rng = built
    norm, head = theirs(params, None)
    for step in range(3):
        batch = batch_of(rng)
        features = objective.features(params, batch["image"])
        (loss, (_, extra)), grads = jax.value_and_grad(objective.loss, has_aux=True)(
            params, extra, batch, jax.random.key(step), step
        )
        logits = head(norm(torch.tensor(np.asarray(features))))
        target = torch.tensor(np.asarray(batch["label"]))
        expected = torch.nn.functional.cross_entropy(logits, target)
        head.zero_grad()
        expected.backward()
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
        np.testing.assert_allclose(grads["head"]["kernel"].T, head.weight.grad, rtol=1e-9)
        rest = {name: tree for name, tree in grads.items() if name != "head"}
        assert all(not leaf.any() for leaf in jax.tree.leaves(rest))
    np.testing.assert_allclose(extra["mean"], norm.running_mean, rtol=1e-12)
    np.testing.assert_allclose(extra["var"], norm.running_var, rtol=1e-12)

    batch = batch_of(rng)
    features = torch.tensor(np.asarray(objective.features(params, batch["image"])))
    logits = head(norm.eval()(features))
    target = torch.tensor(np.asarray(batch["label"]))
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    found = objective.evaluate(params, extra, batch)
    np.testing.assert_allclose(found["loss"], expected.detach(), rtol=1e-10)

    exported = objective.exported_params(params, extra)
    ours = objective.module.apply({"params": exported}, batch["image"])
    np.testing.assert_allclose(ours, logits.detach(), rtol=1e-9)


def test_nothing_in_the_encoder_is_random(built):
    objective, params, extra, rng = built
    batch = batch_of(rng)
    losses = [objective.loss(params, extra, batch, jax.random.key(i), i)[0] for i in range(2)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_classes=0), "num_classes=0"),
        (dict(dist_token=True), "this one has two"),
        (dict(global_pool="none"), "one for each patch"),
        (dict(head_bias=False), "set config.objective.batch_norm=False"),
    ],
)
def test_models_that_have_not_one_head(options, message):
    module = vit_jax.create_model("vit_tiny_patch16_224", **{**MODEL, **options})
    with pytest.raises(UserError, match=message):
        build_linear_probe(module)


@pytest.mark.slow
def test_statistics_of_a_model_in_bfloat16_are_in_float32():
    module = vit_jax.create_model("vit_tiny_patch16_224", **MODEL, dtype="bfloat16")
    objective = build_linear_probe(module)
    batch = batch_of(np.random.default_rng(0))
    params, extra = objective.init(jax.random.key(0), batch)
    _, (_, extra) = objective.loss(params, extra, batch, jax.random.key(0), 0)
    features = np.asarray(module.clone(num_classes=0).apply({"params": params}, batch["image"]))
    np.testing.assert_allclose(extra["mean"], 0.1 * features.astype(np.float64).mean(0), rtol=1e-5)
