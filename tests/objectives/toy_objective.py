"""A self-distilling objective that uses all an objective may own: more parameters, a moving
average, an evaluation of its own. Small enough to check by hand."""

import dataclasses

import jax
import jax.numpy as jnp

from vit_jax import models
from vit_jax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class ToyDistillation(Objective):
    """A projection of the student's output has to meet the output of the student's average.

    params: {"student": module's parameters, "projection": (classes, classes)}
    extra: {"teacher": moving average of the student, "seen": int32, examples so far}
    """

    momentum: float = 0.5

    def init(self, rng, batch):
        module_rng, projection_rng = jax.random.split(rng)
        student = self.module.init(module_rng, batch["image"])["params"]
        size = (self.module.num_classes,) * 2
        params = {"student": student, "projection": jax.random.normal(projection_rng, size)}
        return params, {"teacher": jax.tree.map(jnp.copy, student), "seen": jnp.int32(0)}

    def logical_axes(self, batch):
        student = models.logical_axes(self.module, batch["image"])["params"]
        params = {"student": student, "projection": (None, "classes")}
        return params, {"teacher": student, "seen": ()}

    def loss(self, params, extra, batch, rng, step):
        error = self._error(params, extra, batch, rngs={"dropout": rng}, train=True)
        loss = error.mean()
        seen = extra["seen"] + len(batch["image"])
        return loss, ({"loss": loss, "seen": seen.astype(float)}, {**extra, "seen": seen})

    def after_update(self, params, extra, step):
        def average(teacher, student):
            return self.momentum * teacher + (1 - self.momentum) * student

        return {**extra, "teacher": jax.tree.map(average, extra["teacher"], params["student"])}

    def evaluate(self, params, extra, batch):
        return {"error": self._error(params, extra, batch)}

    def evaluation(self, context):
        """Mean and standard deviation of the error: two passes, so not a mean over examples."""
        mean = context.masked_means(self.evaluate)["error"]

        def squared(params, extra, batch):
            return {"square": (self.evaluate(params, extra, batch)["error"] - mean) ** 2}

        return {"error": mean, "error_std": context.masked_means(squared)["square"] ** 0.5}

    def _error(self, params, extra, batch, **kwargs):
        student = self.module.apply({"params": params["student"]}, batch["image"], **kwargs)
        teacher = self.module.apply({"params": extra["teacher"]}, batch["image"])
        return ((student @ params["projection"] - jax.lax.stop_gradient(teacher)) ** 2).sum(-1)
