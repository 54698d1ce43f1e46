"""Losses and accuracies of single-label classification, one value per example.

Conventions shared by every function:
- `logits` is (b, classes). It is raised to at least float32 before anything is summed; float64
  stays float64.
- `labels` is either (b,) integers, the index of the right class, or (b, classes) floats, a
  distribution over the classes (mixup, CutMix, a teacher's output).
- The result is (b,): the caller averages, so that padded rows can be masked out.

An integer label outside [0, classes) cannot raise inside `jit`: its loss is NaN, so that the run
stops, and it never counts as correct. The data layer is where labels are checked and named.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from vit_jax.errors import UserError

ClassReduction = Literal["mean", "sum"]


def targets(labels: jax.Array, logits: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the distribution (b, classes) that the logits are compared with.

    A smoothing of s moves the share s of every target evenly onto all classes,
    t (1 - s) + s / classes (Szegedy et al. 2016, "Rethinking the Inception Architecture",
    section 7). It is linear, so smoothing a mixture of two labels equals mixing two smoothed ones.

    Args:
      labels: (b,) integers or (b, classes) floats.
      logits: (b, classes); its shape and dtype are those of the result.
      label_smoothing: s in [0, 1).

    Returns:
      (b, classes); NaN in the rows of integer labels outside [0, classes).

    Raises:
      UserError: labels that are neither of the two forms, or s outside [0, 1).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label_smoothing is {label_smoothing}; expected 0 <= s < 1")
    result = distribution(labels, logits.shape, logits.dtype)
    return result * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]


def distribution(labels: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Returns labels as distributions over the classes.

    Args:
      labels: (b,) integers or (b, classes) floats.
      shape: (b, classes), of the logits and of the result.
      dtype: of the result.

    Returns:
      (b, classes); NaN in the rows of integer labels outside [0, classes).

    Raises:
      UserError: labels that are neither of the two forms.
    """
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if integer and labels.shape == shape[:-1]:
        named = _named(labels, shape[-1])
        known = named.any(-1, keepdims=True)
        return jnp.where(known, named, jnp.nan).astype(dtype)
    if not integer and labels.shape == shape:
        return labels.astype(dtype)
    raise UserError(
        f"labels of shape {labels.shape} and dtype {labels.dtype} do not fit logits of shape "
        f"{shape}: give integers {shape[:-1]} or floats {shape}"
    )


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy between softmax(logits) and the (smoothed) labels.

    Classes with target 0 do not contribute, so a class ruled out by a logit of -inf is allowed.

    Args:
      logits: (b, classes).
      labels: (b,) integers or (b, classes) floats.
      label_smoothing: see `targets`.

    Returns:
      (b,) losses in nats.
    """
    logits = _at_least_float32(logits)
    target = targets(labels, logits, label_smoothing)
    return _weighted(target, -jax.nn.log_softmax(logits)).sum(-1)


def sigmoid_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_smoothing: float = 0.0,
    class_reduction: ClassReduction = "mean",
    target_threshold: float | None = None,
) -> jax.Array:
    """Binary cross-entropy of every class against its (smoothed) target.

    Targets are those of timm's `BinaryCrossEntropy` (smoothing s gives 1 - s + s / classes and
    s / classes), the loss of DeiT III (Touvron et al. 2022). Classes are averaged, as in timm;
    "sum" is big_vision's convention (Beyer et al. 2020, "Are we done with ImageNet?"), `classes`
    times larger.

    Args:
      logits: (b, classes).
      labels: (b,) integers or (b, classes) floats.
      label_smoothing: see `targets`.
      class_reduction: "mean" or "sum" over the classes.
      target_threshold: targets above it become 1 and others 0, after smoothing; with 0 a picture
        that is mixed of two classes is of both (Wightman et al. 2021, "ResNet strikes back",
        section 2.3; DeiT III). None: they stay as they are.

    Returns:
      (b,) losses in nats.

    Raises:
      UserError: any other `class_reduction`.
    """
    if class_reduction not in ("mean", "sum"):
        raise UserError(f"class_reduction is {class_reduction!r}; expected 'mean' or 'sum'")
    logits = _at_least_float32(logits)
    target = targets(labels, logits, label_smoothing)
    if target_threshold is not None:
        target = jnp.where(jnp.isnan(target), target, target > target_threshold)
    losses = _weighted(target, jax.nn.softplus(-logits))
    losses += _weighted(1.0 - target, jax.nn.softplus(logits))
    return losses.mean(-1) if class_reduction == "mean" else losses.sum(-1)


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Returns (b,) ones where the label is among the k highest logits, zeros elsewhere.

    Equal logits rank by class index, lowest first, as `argmax` has it: a model that answers the
    same for everything scores like chance, not 0 % or 100 %. A row that holds a NaN is wrong, and
    so is one whose label is no class. With soft labels the right class is the one of the greatest
    share. With fewer than k classes every other row is right.

    Args:
      logits: (b, classes).
      labels: (b,) integers or (b, classes) floats.
      k: how many guesses count, at least 1.
    """
    if k < 1:
        raise UserError(f"k is {k}; expected at least 1")
    index = labels if labels.ndim == logits.ndim - 1 else labels.argmax(-1)
    index = index[:, None]
    own = jnp.take_along_axis(logits, index, axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < index
    rank = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    known = _named(index[:, 0], logits.shape[-1]).any(-1)
    return ((rank < k) & known & ~jnp.isnan(logits).any(-1)).astype(jnp.float32)


def _named(labels: jax.Array, num_classes: int) -> jax.Array:
    """Which class each integer names, (b, classes) of bool; none where there is no such class."""
    return labels[..., None] == jnp.arange(num_classes)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _weighted(weight: jax.Array, value: jax.Array) -> jax.Array:
    """`weight * value` where 0 * inf is 0."""
    return jnp.where(weight == 0, 0, weight * value)
