"""An objective without a network: what the loop does can be followed by hand, and fast."""

import dataclasses

import jax
import jax.numpy as jnp

from vit_jax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Linear(Objective):
    """Fits labels by a linear function of the pixels.

    params: {"w": (pixels,)}; extra: {"parts": int32, how often the loss was computed}
    """

    nan_from: int = 10**9  # the loss is NaN from this update on
    nan_evaluation: bool = False  # so is that of every evaluation

    def init(self, rng, batch):
        pixels = batch["image"][0].size
        return {"w": 0.01 * jax.random.normal(rng, (pixels,))}, {"parts": jnp.int32(0)}

    def logical_axes(self, batch):
        return {"w": ("embed",)}, {"parts": ()}

    def _errors(self, params, batch):
        image = batch["image"].reshape(len(batch["image"]), -1)
        return (image @ params["w"] - batch["label"]) ** 2

    def loss(self, params, extra, batch, rng, step):
        loss = self._errors(params, batch).mean()
        loss = jnp.where(step + 1 >= self.nan_from, jnp.nan, loss)
        metrics = {"loss": loss, "noise": jax.random.uniform(rng, (), loss.dtype)}
        return loss, (metrics, {"parts": extra["parts"] + 1})

    def evaluate(self, params, extra, batch):
        errors = self._errors(params, batch)
        return {"loss": jnp.full_like(errors, jnp.nan) if self.nan_evaluation else errors}


def use(config, monkeypatch, **options):
    """Makes `config` train this objective."""
    from vit_jax import objectives

    def build(module, *, nan_from=10**9, nan_evaluation=False):
        return Linear(module, nan_from, nan_evaluation)

    monkeypatch.setitem(objectives.OBJECTIVES, "linear", build)
    config.objective = {"name": "linear", **options}
    config.optim.lr = 1e-3
    config.checkpoint.best_metric, config.checkpoint.best_mode = "loss", "min"
    return config
