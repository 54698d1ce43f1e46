"""Supervised classification: images in, one label each."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from vit_jax import naming
from vit_jax.errors import UserError
from vit_jax.objectives import losses
from vit_jax.objectives.base import Batch, Extra, Metrics, Objective, Params


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """Minimises the mean of a loss between the module's logits and the labels.

    Attributes:
      module: images (b, h, w, c) -> logits (b, classes); takes `train` and a "dropout" rng.
      example_loss: (logits, labels, label_smoothing) -> (b,).
      label_smoothing: of training; evaluation compares with the labels as they are.
    """

    example_loss: Callable[[jax.Array, jax.Array, float], jax.Array]
    label_smoothing: float = 0.0

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns the mean loss; logs "loss" and "top1"."""
        del step
        logits = self.module.apply(
            {"params": params}, batch["image"], train=True, rngs={"dropout": rng}
        )
        loss = self.example_loss(logits, batch["label"], self.label_smoothing).mean()
        top1 = losses.top_k_correct(logits, batch["label"], 1).mean()
        return loss, ({"loss": loss, "top1": top1}, extra)

    def evaluate(self, params: Params, extra: Extra, batch: Batch) -> Metrics:
        """Returns "loss", "top1" and "top5" of every example.

        "top5" is always there: with five classes or fewer it is 1 (see `losses.top_k_correct`).
        """
        del extra
        logits = self.module.apply({"params": params}, batch["image"])
        label = batch["label"]
        return {
            "loss": self.example_loss(logits, label, 0.0),
            "top1": losses.top_k_correct(logits, label, 1),
            "top5": losses.top_k_correct(logits, label, 5),
        }

    def describe(self, results: dict[str, float]) -> str:
        """Returns such as "accuracy 98.33 %, top-5 100.00 %, loss 0.0713"."""
        return (
            f"accuracy {100 * results['top1']:.2f} %, top-5 {100 * results['top5']:.2f} %, "
            f"loss {results['loss']:.4f}"
        )


def build_classification(
    module: nn.Module,
    *,
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    class_reduction: losses.ClassReduction = "mean",
) -> Classification:
    """Builds the objective from the options of `config.objective`.

    Args:
      module: the classifier.
      loss: "softmax" or "sigmoid" cross-entropy.
      label_smoothing: share of every label spread over all classes, in training only.
      class_reduction: "mean" or "sum" over the classes, for the sigmoid loss.

    Raises:
      UserError: an unknown loss, an option out of range, or a module without classes.
    """
    naming.check_known("objective.loss", [loss], ["softmax", "sigmoid"])
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(
            f"config.objective.label_smoothing is {label_smoothing}; expected 0 <= s < 1"
        )
    if class_reduction not in ("mean", "sum"):
        raise UserError(
            f"config.objective.class_reduction is {class_reduction!r}; expected 'mean' or 'sum'"
        )
    if getattr(module, "num_classes", 1) == 0:
        raise UserError(
            "classification needs a module with num_classes > 0; "
            "set config.model.num_classes to the number of classes of the data"
        )
    if loss == "softmax":
        return Classification(module, losses.softmax_cross_entropy, label_smoothing)
    example_loss = functools.partial(losses.sigmoid_cross_entropy, class_reduction=class_reduction)
    return Classification(module, example_loss, label_smoothing)
