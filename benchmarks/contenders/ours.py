"""This library, as `vit-jax train` and `module.apply` run it."""

import pathlib
from typing import Any

import jax
import numpy as np

import vit_jax
from contenders import Steps, Work
from vit_jax.training.experiment import Experiment
from vit_jax.training.resolve import resolve

CLASSES, EXAMPLES = 1000, 1_281_167  # ImageNet-1k
# The encoder of a masked autoencoder has the widths of the classifier of its size.
SMALL_MAE = dict(embed_dim=384, depth=12, num_heads=6)


def build(work: Work, variant: str, checkout: pathlib.Path | None) -> Steps:
    """The steps of a piece of work."""
    fields = model_fields(work)
    if variant == "scan":
        fields["scan"] = True
    return _forward(work, fields) if work.kind == "forward" else _train(work, fields)


def model_fields(work: Work) -> dict[str, Any]:
    """Name and hyper-parameters of the model that a piece of work is about."""
    fields = dict(name=work.model, img_size=work.image_size, dtype=work.dtype)
    if work.kind != "mae":
        return {**fields, "num_classes": CLASSES}
    if work.model.startswith("mae_vit_small"):
        fields |= {"name": "mae_vit_base_patch16", **SMALL_MAE}
    return fields


def make_model(work: Work) -> Any:
    """The module of a piece of work."""
    fields = model_fields(work)
    return vit_jax.create_model(fields.pop("name"), **fields)


def _forward(work: Work, fields: dict[str, Any]) -> Steps:
    model = vit_jax.create_model(fields.pop("name"), **fields)
    shape = (work.batch, work.image_size, work.image_size, 3)
    images = jax.random.normal(jax.random.key(0), shape)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    apply = jax.jit(model.apply)

    def steps(count: int) -> None:
        for _ in range(count):
            logits = apply(variables, images)
        jax.block_until_ready(logits)

    return steps


def _train(work: Work, fields: dict[str, Any]) -> Steps:
    """The loop's own step on a batch of bytes, normalisation and metrics included."""
    config = vit_jax.base_config()
    config.model.update(fields)
    if work.kind == "mae":
        config.objective = {"name": "mae", "norm_pix_loss": True}
    config.data.batch_size = work.batch
    config.optim.weight_decay = 0.05
    config.total_steps = EXAMPLES
    experiment = Experiment(resolve(config, EXAMPLES, CLASSES))
    rng = np.random.default_rng(0)
    batch = jax.tree.map(lambda x: _filled(x, rng), experiment.batch_shapes())
    state = experiment.state_factory.create()
    with experiment.activate():
        step = experiment.train_step()

    def steps(count: int) -> None:
        nonlocal state
        with experiment.activate():
            for _ in range(count):
                state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return steps


def _filled(x: jax.ShapeDtypeStruct, rng: np.random.Generator) -> jax.Array:
    """Random pixels for images, zeros for labels and all else."""
    is_image = x.dtype == np.uint8 and len(x.shape) == 4
    values = rng.integers(0, 256, x.shape, np.uint8) if is_image else np.zeros(x.shape, x.dtype)
    return jax.device_put(values, x.sharding)
