"""Distillation: a student learns from the labels and from a frozen teacher.

Touvron et al. 2021, "Training data-efficient image transformers & distillation through attention",
section 4. Z_s, Z_t are the logits of student and teacher, psi the softmax, y the label, and y_t the
teacher's own guess, argmax Z_t:

    soft (eq. 2)    (1 - alpha) CE(psi(Z_s), y) + alpha tau^2 KL(psi(Z_t / tau), psi(Z_s / tau))
    hard (eq. 3)    (1 - alpha) CE(psi(Z_s), y) + alpha CE(psi(Z_s), y_t),    alpha = 1/2

KL as in Hinton et al. 2015: how far the student is from the teacher. (The authors' program divides
it by the number of classes as well.) A student with a distillation token has two heads: that of the
class token is compared with the label, that of the distillation token with the teacher, and at
evaluation the result is the mean of both. A student without has one head that is compared with
both. The label is smoothed and mixed, the teacher's answer to the mixed picture is taken as it is.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax import ranges
from vit_jax.objectives import losses
from vit_jax.objectives.base import Batch, Constants, Extra, Metrics, Params, Surroundings
from vit_jax.objectives.classification import Classification, build_classification
from vit_jax.objectives.teacher import Teacher, make_teacher

Kind = Literal["hard", "soft"]


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """Classification that also follows a teacher.

    Attributes:
      teacher: gives logits of the same classes, see `objectives.teacher`.
      kind: "hard" or "soft".
      alpha: share of the teacher in the loss.
      tau: temperature of "soft".
    """

    teacher: Teacher = dataclasses.field(kw_only=True)
    kind: Kind = dataclasses.field(kw_only=True, default="hard")
    alpha: float = dataclasses.field(kw_only=True, default=0.5)
    tau: float = dataclasses.field(kw_only=True, default=1.0)

    def constants(self) -> Constants:
        """Returns the teacher's parameters."""
        return self.teacher.constants()

    def training_flops(self, trained: float) -> float:
        """Returns the student's and those of the teacher's forward pass."""
        return super().training_flops(trained) + self.teacher.flops()

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns the mean loss.

        Logs "loss" and its parts "loss_label" and "loss_teacher", "top1" of the student as it is
        evaluated, and "teacher_top1", how often the teacher agrees with the label.
        """
        del step
        batch = self.mixed(batch, rng)
        own, distilled, both = self._logits(params, batch["image"], rng)
        taught = self.teacher.logits(batch.get("teacher"), batch["image"])
        label = self.example_loss(own, batch["label"], self.label_smoothing).mean()
        if self.kind == "hard":
            teacher = hard_loss(distilled, taught).mean()
        else:
            teacher = soft_loss(distilled, taught, self.tau).mean()
        loss = (1 - self.alpha) * label + self.alpha * teacher
        metrics = {
            "loss": loss,
            "loss_label": label,
            "loss_teacher": teacher,
            "top1": losses.top_k_correct(both, batch["label"], 1).mean(),
            "teacher_top1": losses.top_k_correct(taught, batch["label"], 1).mean(),
        }
        return loss, (metrics, extra)

    def _logits(
        self, params: Params, images: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What is compared with the label, what with the teacher, and the student's result."""
        variables, rngs = {"params": params}, {"dropout": rng}
        if not getattr(self.module, "dist_token", False):
            logits = self.module.apply(variables, images, train=True, rngs=rngs)
            return logits, logits, logits
        both, seen = self.module.apply(variables, images, train=True, rngs=rngs, capture=("heads",))
        return seen.heads[:, 0], seen.heads[:, 1], both


def hard_loss(logits: jax.Array, taught: jax.Array) -> jax.Array:
    """Cross-entropy with the teacher's guess, (b,) nats.

    Args:
      logits: of the student, (b, classes).
      taught: logits of the teacher, (b, classes); without a guess (NaN) the loss is NaN.
    """
    guess = jnp.where(jnp.isnan(taught).any(-1), -1, taught.argmax(-1))
    return losses.softmax_cross_entropy(logits, guess)


def soft_loss(logits: jax.Array, taught: jax.Array, tau: float) -> jax.Array:
    """tau^2 times the Kullback-Leibler divergence of the student from the teacher, (b,) nats.

    The factor keeps the gradient's size as tau grows (Hinton et al. 2015, section 2).

    Args:
      logits: of the student, (b, classes).
      taught: logits of the teacher, (b, classes).
      tau: temperature.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    target = jax.nn.log_softmax(taught.astype(dtype) / tau)
    found = jax.nn.log_softmax(logits.astype(dtype) / tau)
    # A class that the teacher rules out, at -inf, has no share.
    terms = jnp.where(jnp.isneginf(target), 0, jnp.exp(target) * (target - found))
    return tau**2 * terms.sum(-1)


def build_distillation(
    module: nn.Module,
    surroundings: Surroundings,
    *,
    teacher: str | None = None,
    teacher_checkpoint: str | int = "last",
    teacher_model: str | None = None,
    teacher_dtype: str | None = None,
    kind: Kind = "hard",
    alpha: float = 0.5,
    tau: float = 1.0,
    **classification: Any,
) -> Distillation:
    """Builds the objective from the options of `config.objective`.

    Args:
      module: the student.
      surroundings: of the run.
      teacher: the folder of a run, what `vit-jax convert` wrote, a weights file, a hub id, or
        "python:module:function" (see `objectives.teacher`).
      teacher_checkpoint: which of a run: "last", "best" or a step.
      teacher_model: a name of `list_models()`, where the source does not say what it is.
      teacher_dtype: of the teacher's computation, as "bfloat16"; None: its own.
      kind: "hard" or "soft".
      alpha: share of the teacher in the loss, 0 to 1; 0.1 in the paper's soft distillation.
      tau: temperature of "soft"; 3 in the paper.
      **classification: options of the objective "classification".

    Raises:
      UserError: an option is missing or out of range; see also `build_classification`.
    """
    own = dict(teacher=teacher, kind=kind, alpha=alpha, tau=tau, teacher_dtype=teacher_dtype)
    ranges.check(own, RANGES, "objective.")
    given = make_teacher(
        teacher,
        module,
        surroundings,
        checkpoint=teacher_checkpoint,
        model=teacher_model,
        dtype=teacher_dtype,
    )
    base = build_classification(module, **classification)
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return Distillation(**fields, teacher=given, kind=kind, alpha=alpha, tau=tau)


RANGES: dict[str, ranges.Range] = {
    "teacher": ranges.Range(
        "the teacher: the folder of a run or of weights, a hub id, or python:module:function",
        lambda x: isinstance(x, str) and bool(x),
    ),
    "kind": ranges.one_of(("hard", "soft")),
    "alpha": ranges.FRACTION,
    "tau": ranges.POSITIVE,
    "teacher_dtype": ranges.or_none(ranges.FLOAT_DTYPE),
}
