"""What a step needs, beside what the compiler counts in the program of its gradient."""

import jax
import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax.training.experiment import Experiment
from vit_jax.training.resolve import resolve

BATCH = 4
TEACHER = "python:tests.training.test_training_flops:guess"


def guess(images):
    """A teacher of no cost."""
    return jnp.zeros((len(images), 10))


def experiment(**changes):
    config = vit_jax.base_config()
    config.update(total_steps=1)
    config.model.update(img_size=64, patch_size=8, in_chans=1, embed_dim=192, depth=4, num_heads=3)
    config.model.update(class_token=False, global_pool="avg")
    config.data.batch_size = BATCH
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return Experiment(resolve(config, 100, 10), jax.devices()[:1])


def counted(run):
    """Operations an image of the gradient's program."""
    objective, shapes = run.objective, run.state_factory.shapes
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, *run.image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    program = gradient.lower(shapes.params, shapes.extra, batch, jax.random.key(0), 0)
    return program.compile().cost_analysis()["flops"] / BATCH


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective.name": "linear_probe"},
        {"lora.rank": 4},
        {"objective.name": "distillation", "objective.teacher": TEACHER},
        {
            "model.name": "mae_vit_tiny_patch16",
            "model.num_classes": 0,
            "model.in_chans": 3,
            "model.class_token": True,
            "model.global_pool": "none",
            "objective": {"name": "mae"},
        },
    ],
    ids=["all", "linear_probe", "lora", "distillation", "mae"],
)
def test_a_step_needs_what_the_compiler_counts(changes):
    """Beside matrix products the compiler counts what is done element by element, some percent."""
    run = experiment(**changes)
    assert 0.97 < counted(run) / run.training_flops() < 1.15
