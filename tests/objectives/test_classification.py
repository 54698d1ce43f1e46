import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.objectives import (
    Classification,
    Objective,
    build_objective,
    losses,
    objective_defaults,
)
from vit_jax.objectives.mixing import Mixing

TINY = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=6)


def tiny_module(**overrides):
    return vit_jax.create_model("vit_tiny_patch16_224", **{**TINY, **overrides})


def config(**objective):
    return types.SimpleNamespace(objective={"name": "classification", **objective})


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    return {"image": jnp.asarray(image), "label": jnp.arange(4)}


def start(objective, batch):
    params, extra = objective.init(jax.random.key(0), batch)
    # The head of a fresh ViT is zero: draw it, or every logit is the same.
    shape = params["head"]["kernel"].shape
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), shape)
    return params, extra


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({}, lambda x, y: losses.softmax_cross_entropy(x, y)),
        ({"label_smoothing": 0.2}, lambda x, y: losses.softmax_cross_entropy(x, y, 0.2)),
        ({"loss": "sigmoid"}, lambda x, y: losses.sigmoid_cross_entropy(x, y)),
        (
            {"loss": "sigmoid", "target_threshold": 0.0},
            lambda x, y: losses.sigmoid_cross_entropy(x, y, target_threshold=0.0),
        ),
        (
            {"loss": "sigmoid", "label_smoothing": 0.1, "class_reduction": "sum"},
            lambda x, y: losses.sigmoid_cross_entropy(x, y, 0.1, "sum"),
        ),
    ],
)
def test_the_config_chooses_the_loss(batch, options, function):
    objective = build_objective(config(**options), tiny_module())
    assert isinstance(objective, Classification)
    params, extra = start(objective, batch)
    loss, (metrics, extra_after) = objective.loss(params, extra, batch, jax.random.key(2), 0)
    logits = objective.module.apply({"params": params}, batch["image"])
    np.testing.assert_allclose(loss, function(logits, batch["label"]).mean(), rtol=1e-6)
    assert metrics["loss"] == loss and set(metrics) == {"loss", "top1"}
    assert extra_after == extra == {}


def test_evaluation_is_per_example_and_without_smoothing(batch):
    objective = build_objective(config(label_smoothing=0.3), tiny_module())
    params, extra = start(objective, batch)
    values = objective.evaluate(params, extra, batch)
    logits = objective.module.apply({"params": params}, batch["image"])
    assert {name: x.shape for name, x in values.items()} == dict.fromkeys(
        ("loss", "top1", "top5"), (4,)
    )
    np.testing.assert_allclose(
        values["loss"], losses.softmax_cross_entropy(logits, batch["label"]), rtol=1e-6
    )
    np.testing.assert_array_equal(values["top1"], logits.argmax(-1) == batch["label"])


def test_top5_of_few_classes_is_one(batch):
    objective = build_objective(config(), tiny_module(num_classes=5))
    params, extra = start(objective, batch)
    np.testing.assert_array_equal(objective.evaluate(params, extra, batch)["top5"], np.ones(4))


def test_training_uses_the_rng_and_evaluation_does_not(batch):
    objective = build_objective(config(), tiny_module(proj_drop_rate=0.5))
    params, extra = start(objective, batch)
    values = [
        float(objective.loss(params, extra, batch, jax.random.key(seed), 0)[0])
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]
    objective.evaluate(params, extra, batch)  # asks for no rng


def test_logical_axes_have_the_structure_of_the_parameters(batch):
    objective = build_objective(config(), tiny_module())
    params, extra = objective.init(jax.random.key(0), batch)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    axes, extra_axes = objective.logical_axes(shapes)
    ranks = jax.tree.map(lambda names: len(names), axes, is_leaf=lambda x: isinstance(x, tuple))
    assert ranks == jax.tree.map(jnp.ndim, params)
    assert extra == extra_axes == {}


def test_mistakes_in_the_config_are_named():
    module = tiny_module()
    cases = {
        "did you mean 'classification'": {"name": "clasification"},
        "did you mean 'label_smoothing'": {"label_smoothin": 0.1},
        "did you mean 'softmax'": {"loss": "softmx"},
        "label_smoothing is 1.0": {"label_smoothing": 1.0},
        "class_reduction is 'max'": {"class_reduction": "max"},
        "target_threshold is 0.0 with loss='softmax'": {"target_threshold": 0.0},
        "target_threshold is 1.0": {"loss": "sigmoid", "target_threshold": 1.0},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            build_objective(config(**options), module)
    with pytest.raises(ValueError, match="num_classes"):
        build_objective(config(), tiny_module(num_classes=0))


def test_defaults_are_those_of_the_builder():
    assert objective_defaults("classification") == {
        "loss": "softmax",
        "label_smoothing": 0.0,
        "class_reduction": "mean",
        "target_threshold": None,
        **dataclasses.asdict(Mixing()),
    }
    assert not Mixing().active


def test_results_read_as_a_sentence():
    objective = build_objective(config(), tiny_module())
    results = {"loss": 0.07129, "top1": 0.98333, "top5": 1.0}
    assert objective.describe(results) == "accuracy 98.33 %, top-5 100.00 %, loss 0.0713"
    assert Objective(objective.module).describe({"a": 0.5, "b": 1e-6}) == "a 0.5, b 1e-06"
