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
from vit_jax.objectives.mixing import NO_MIXING, Mixing, Mode

ExampleLoss = Callable[[jax.Array, jax.Array, float], jax.Array]

MIXING_KEY = 0x6D6978  # folded into the step's key, which is that of dropout


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """Minimises the mean of a loss between the module's logits and the labels.

    Attributes:
      module: images (b, h, w, c) -> logits (b, classes); takes `train` and a "dropout" rng.
      example_loss: (logits, labels, label_smoothing) -> (b,).
      label_smoothing: of training; evaluation compares with the labels as they are.
      mixing: mixup and CutMix, in training.
    """

    example_loss: ExampleLoss
    label_smoothing: float = 0.0
    mixing: Mixing = NO_MIXING

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns the mean loss; logs "loss" and "top1" (of the label of most share)."""
        del step
        batch = self.mixed(batch, rng)
        logits = self.module.apply(
            {"params": params}, batch["image"], train=True, rngs={"dropout": rng}
        )
        loss = self.example_loss(logits, batch["label"], self.label_smoothing).mean()
        top1 = losses.top_k_correct(logits, batch["label"], 1).mean()
        return loss, ({"loss": loss, "top1": top1}, extra)

    def mixed(self, batch: Batch, rng: jax.Array) -> Batch:
        """Returns the batch as it is learned from, see `mixing`; `rng` is that of `loss`."""
        key = jax.random.fold_in(rng, MIXING_KEY)
        return self.mixing(batch, self.module.num_classes, key) if self.mixing.active else batch

    def evaluate(self, params: Params, extra: Extra, batch: Batch) -> Metrics:
        """Returns "loss", "top1" and "top5" of every example.

        "top5" is always there: with five classes or fewer it is 1 (see `losses.top_k_correct`).
        """
        del extra
        logits = self.module.apply({"params": params}, batch["image"])
        return scores(self.example_loss, logits, batch["label"])

    def describe(self, results: dict[str, float]) -> str:
        """Returns such as "accuracy 98.33 %, top-5 100.00 %, loss 0.0713"."""
        return describe(results)


def scores(example_loss: ExampleLoss, logits: jax.Array, label: jax.Array) -> Metrics:
    """Returns "loss", "top1" and "top5" of every example.

    Args:
      example_loss: (logits, labels, label_smoothing) -> (b,).
      logits: (b, classes).
      label: (b,) integers.
    """
    return {
        "loss": example_loss(logits, label, 0.0),
        "top1": losses.top_k_correct(logits, label, 1),
        "top5": losses.top_k_correct(logits, label, 5),
    }


def describe(results: dict[str, float]) -> str:
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
    target_threshold: float | None = None,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    cutmix_minmax: tuple[float, float] | None = None,
    mixup_prob: float = 1.0,
    mixup_switch_prob: float = 0.5,
    mixup_mode: Mode = "batch",
    mixup_correct_lam: bool = True,
) -> Classification:
    """Builds the objective from the options of `config.objective`.

    Args:
      module: the classifier.
      loss: "softmax" or "sigmoid" cross-entropy.
      label_smoothing: share of every label spread over all classes, in training only.
      class_reduction: "mean" or "sum" over the classes, for the sigmoid loss.
      target_threshold: see `losses.sigmoid_cross_entropy`, for the sigmoid loss; None: off.
      mixup_alpha: this and the following: mixup and CutMix, see `mixing.Mixing`; off by default.
      cutmix_alpha: see there.
      cutmix_minmax: see there.
      mixup_prob: see there.
      mixup_switch_prob: see there.
      mixup_mode: see there.
      mixup_correct_lam: see there.

    Raises:
      UserError: an unknown loss, an option out of range, or a module without classes.
    """
    if getattr(module, "num_classes", 1) == 0:
        raise UserError(
            "classification needs a module with num_classes > 0; "
            "set config.model.num_classes to the number of classes of the data"
        )
    mixing = Mixing(
        mixup_alpha,
        cutmix_alpha,
        cutmix_minmax,
        mixup_prob,
        mixup_switch_prob,
        mixup_mode,
        mixup_correct_lam,
    )
    loss_of = example_loss(loss, label_smoothing, class_reduction, target_threshold)
    return Classification(module, loss_of, label_smoothing, mixing)


def example_loss(
    loss: str,
    label_smoothing: float,
    class_reduction: losses.ClassReduction,
    target_threshold: float | None = None,
) -> ExampleLoss:
    """Returns (logits, labels, label_smoothing) -> (b,), once the options are looked at.

    Args:
      loss: see `build_classification`.
      label_smoothing: see there.
      class_reduction: see there.
      target_threshold: see there.

    Raises:
      UserError: see there.
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
    if target_threshold is not None and not (loss == "sigmoid" and 0 <= target_threshold < 1):
        raise UserError(
            f"config.objective.target_threshold is {target_threshold} with loss={loss!r}; expected "
            "0 <= t < 1 and loss='sigmoid', or None"
        )
    if loss == "softmax":
        return losses.softmax_cross_entropy
    return functools.partial(
        losses.sigmoid_cross_entropy,
        class_reduction=class_reduction,
        target_threshold=target_threshold,
    )
