"""Linear probing: how well a linear classifier does on features that stay as they are.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", appendix A.1: between the frozen
encoder and the classifier stands a batch norm without scale and shift, which makes up for features
of very different sizes and turns into a part of the linear classifier once it is trained.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.linear import classifier
from vit_jax.objectives import classification, losses
from vit_jax.objectives.base import Batch, Extra, Metrics, Objective, Params

MOMENTUM = 0.1  # weight of a batch in the running statistics, as in PyTorch's BatchNorm1d
EPSILON = 1e-6
HEAD_STD = 0.01  # of the classifier at the start, as in the authors' main_linprobe.py


@dataclasses.dataclass(frozen=True)
class LinearProbe(Objective):
    """Minimises the mean of a loss between the labels and a linear map of frozen features.

    The features are what the module's head sees at evaluation: nothing in the encoder is random.

    params: the module's, of which the head alone is trained;
    extra: {"mean": (d,), "var": (d,)}, running statistics of the features, or {} without batch norm

    Attributes:
      module: images (b, h, w, c) -> logits (b, classes), with one head named "head".
      example_loss: (logits, labels, label_smoothing) -> (b,).
      label_smoothing: of training.
      batch_norm: a batch norm without scale and shift comes before the head.
    """

    example_loss: classification.ExampleLoss
    label_smoothing: float = 0.0
    batch_norm: bool = True

    @property
    def trained(self) -> tuple[str, ...]:
        """The head."""
        return ("head/*",)

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, Extra]:
        """Returns the module's parameters, a head that is drawn, and statistics of no effect.

        The head starts from a normal distribution as the authors' does: LARS makes a step as long
        as the weights are, which for a head of zeros is another training.
        """
        params, _ = super().init(rng, batch)
        kernel = params["head"]["kernel"]
        draw = nn.initializers.normal(HEAD_STD)
        drawn = draw(jax.random.fold_in(rng, 1), kernel.shape, kernel.dtype)
        params = {**params, "head": {**params["head"], "kernel": drawn}}
        if not self.batch_norm:
            return params, {}
        width = params["head"]["kernel"].shape[0]
        return params, {"mean": jnp.zeros(width), "var": jnp.ones(width)}

    def logical_axes(self, batch: Batch) -> tuple[Any, Any]:
        """Returns the axes of `init`."""
        params, _ = super().logical_axes(batch)
        return params, {"mean": (None,), "var": (None,)} if self.batch_norm else {}

    def training_flops(self, trained: float) -> float:
        """Returns those of the forward pass, and of both gradients in the head."""
        del trained
        return self.module.flops() + 2 * (self.module.flops() - self._encoder.flops())

    @property
    def _encoder(self) -> nn.Module:
        """The module without its head."""
        return self.module.clone(num_classes=0)

    def features(self, params: Params, images: jax.Array) -> jax.Array:
        """Returns what the head sees, `(b, d)`, in at least float32; without a gradient.

        Args:
          params: of the module.
          images: (b, h, w, c), normalised.
        """
        found = self._encoder.apply({"params": params}, images)
        # Statistics of a batch in bfloat16 would be a tenth of a standard deviation off.
        found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        return jax.lax.stop_gradient(found)

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns the mean loss; logs "loss" and "top1". The statistics are those of the batch."""
        del rng, step
        features = self.features(params, batch["image"])
        if self.batch_norm:
            statistics = {"mean": features.mean(0), "var": features.var(0)}
            extra = _moved(extra, statistics, len(features))
            features = _normalised(features, statistics)
        logits = self._head(params, features)
        loss = self.example_loss(logits, batch["label"], self.label_smoothing).mean()
        top1 = losses.top_k_correct(logits, batch["label"], 1).mean()
        return loss, ({"loss": loss, "top1": top1}, extra)

    def evaluate(self, params: Params, extra: Extra, batch: Batch) -> Metrics:
        """Returns "loss", "top1" and "top5" of every example; with the running statistics."""
        features = self.features(params, batch["image"])
        if self.batch_norm:
            features = _normalised(features, extra)
        return classification.scores(
            self.example_loss, self._head(params, features), batch["label"]
        )

    def exported_params(self, params: Params, extra: Extra) -> Params:
        """Returns the module's parameters with the batch norm inside of the head's."""
        if not self.batch_norm:
            return params
        scale = jax.lax.rsqrt(extra["var"] + EPSILON)
        head = dict(params["head"])
        head["kernel"] = head["kernel"] * scale[:, None]
        head["bias"] = head["bias"] - extra["mean"] @ head["kernel"]
        return {**params, "head": head}

    def describe(self, results: dict[str, float]) -> str:
        """Returns such as "accuracy 98.33 %, top-5 100.00 %, loss 0.0713"."""
        return classification.describe(results)

    def _head(self, params: Params, features: jax.Array) -> jax.Array:
        module = self.module
        head = classifier(
            module.num_classes,
            getattr(module, "head_bias", True),
            dtype=module.dtype,
            param_dtype=module.param_dtype,
            name="head",
        )
        return head.apply({"params": params["head"]}, features)


def _normalised(features: jax.Array, statistics: Extra) -> jax.Array:
    return (features - statistics["mean"]) * jax.lax.rsqrt(statistics["var"] + EPSILON)


def _moved(running: Extra, batch: Extra, rows: int) -> Extra:
    """The running statistics after a batch; its variance is taken without bias, as in PyTorch."""
    unbiased = {**batch, "var": batch["var"] * (rows / max(rows - 1, 1))}
    return jax.tree.map(lambda old, new: old + MOMENTUM * (new - old), running, unbiased)


def build_linear_probe(
    module: nn.Module,
    *,
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    class_reduction: losses.ClassReduction = "mean",
    batch_norm: bool = True,
) -> LinearProbe:
    """Builds the objective from the options of `config.objective`.

    Args:
      module: the classifier.
      loss: see `classification.build_classification`.
      label_smoothing: see there.
      class_reduction: see there.
      batch_norm: see `LinearProbe`.

    Raises:
      UserError: see `classification.build_classification`; or the module has another number of
        heads than one, or its features are not one vector an image.
    """
    example_loss = classification.example_loss(loss, label_smoothing, class_reduction)
    _check(module, batch_norm)
    return LinearProbe(module, example_loss, label_smoothing, batch_norm)


def _check(module: nn.Module, batch_norm: bool) -> None:
    said = "linear_probe trains the one head of a classifier"
    if not getattr(module, "num_classes", 0):
        raise UserError(f"{said}; this model has num_classes=0: set config.model.num_classes")
    if getattr(module, "dist_token", False):
        raise UserError(f"{said}; this one has two: leave out config.model.dist_token")
    if module.global_pool == "none":
        raise UserError(
            f"{said}; with global_pool='none' there is one for each patch: choose another"
        )
    if batch_norm and not getattr(module, "head_bias", True):
        raise UserError(
            "batch_norm becomes a part of the head, whose bias config.model.head_bias=False leaves "
            "out: allow it, or set config.objective.batch_norm=False"
        )
