"""This library, as `vit-jax benchmark` runs it; and XLA's ceiling, a matrix product.

A train step is that of `vit-jax train`.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

import vit_jax
from contenders import Steps, Work
from vit_jax.ahead.program import compile_step
from vit_jax.measure.benchmark import config_of, program_of
from vit_jax.measure.programs import matmul
from vit_jax.training.experiment import Experiment

CLASSES = 1000
# Names that have no model of their own: of the base model with other widths.
SMALL_MAE = dict(embed_dim=384, num_heads=6)


def build(work: Work, variant: str, checkout: pathlib.Path | None) -> Steps:
    """The steps of a piece of work."""
    if work.kind == "matmul":
        return matmul(work.batch, work.dtype)[0].timed
    module = make_model(work, scan=variant == "scan")
    if work.kind == "compile":
        return _compilations(module.clone(dtype=work.dtype), work.batch)
    params = None
    if work.kind == "forward":
        images = jnp.zeros((1, work.image_size, work.image_size, 3))
        params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    what = "forward" if work.kind == "forward" else "train"
    return program_of(module, params, what, work.dtype, work.batch)[0].timed


def _compilations(module: Any, batch: int) -> Steps:
    experiment = Experiment(config_of(module, batch), jax.devices()[:1])

    def steps(count: int) -> None:
        for _ in range(count):
            jax.clear_caches()
            compile_step(experiment, progress=lambda text: None)

    return steps


def make_model(work: Work, scan: bool = False) -> Any:
    """The module of a piece of work."""
    name, fields = work.model, dict(img_size=work.image_size)
    if work.kind != "mae":
        fields["num_classes"] = CLASSES
    elif name == "mae_vit_small_patch16":
        name, fields = "mae_vit_base_patch16", {**fields, **SMALL_MAE}
    if scan:
        fields["scan"] = True
    return vit_jax.create_model(name, **fields)
