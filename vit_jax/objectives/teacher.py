"""A frozen teacher: what it says of a batch that was prepared for another model.

A teacher is a model of this library, or a function. It looks at the very pictures that the student
looks at, augmented and mixed. What differs from its own preprocessing is put right on the devices:
the student's normalisation is taken back and the teacher's applied, and where the sizes differ the
pictures are resized to the teacher's `img_size`, by its own interpolation, with antialiasing.

Its parameters are constants of the run (`Objective.constants`), in no checkpoint. A function's name
stands for it in the fingerprint: whether it still computes the same is for its owner to know.
"""

import functools
import hashlib
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.objectives.base import Constants, Surroundings

FUNCTION = "python:"
Function = Callable[[jax.Array], jax.Array]


class Teacher(Protocol):
    """What distillation asks of a teacher."""

    def constants(self) -> Constants:
        """Returns its parameters under the name "teacher", or nothing; see `Objective`."""

    def flops(self) -> int:
        """Returns the floating-point operations of one image, 0 where they are not known."""

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """Returns (b, classes), without a gradient.

        Args:
          params: `constants().arrays["teacher"]` on the devices, None where there is none.
          images: (b, h, w, c), normalised for the student.
        """


class FunctionTeacher:
    """A function of images (b, h, w, c), normalised for the student, that gives (b, classes)."""

    def __init__(self, function: Function, name: str | None, num_classes: int):
        """Takes a function that can be traced.

        Args:
          function: the teacher.
          name: what stands for it in the fingerprint; None: nothing does.
          num_classes: of the student.
        """
        self._function, self._name, self._num_classes = function, name, num_classes

    def constants(self) -> Constants:
        """Returns the name alone."""
        return Constants(fingerprint=self._name)

    def flops(self) -> int:
        """Returns 0: what a function needs is not known."""
        return 0

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """Returns what the function returns, see `Teacher`.

        Raises:
          UserError: it is not one row of logits for each picture.
        """
        del params
        logits = jax.lax.stop_gradient(self._function(images))
        expected = (images.shape[0], self._num_classes)
        if logits.shape != expected:
            raise UserError(
                f"the teacher {self._name or self._function} gave an array of {logits.shape} for "
                f"{images.shape[0]} pictures; expected logits of {expected}, the student's classes"
            )
        return logits


class ModelTeacher:
    """A model of this library; it is read when its parameters are asked for."""

    def __init__(
        self,
        load: Callable[[], Any],
        name: str,
        student: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: Any = None,
    ):
        """Takes what it needs to read the model and to prepare its images.

        Args:
          load: gives a `vit_jax.convert.folder.Model`.
          name: for errors.
          student: the module that learns from it.
          mean: of the student's images.
          std: of the student's images.
          dtype: computation dtype; None: the teacher's own.
        """
        self._load, self._name, self._student, self._dtype = load, name, student, dtype
        self._mean, self._std = mean, std

    @functools.cached_property
    def _model(self) -> Any:
        """The model, once it is known to fit the student.

        Raises:
          UserError: it cannot be read, or has other classes or channels.
        """
        model = self._load()
        for field in ("num_classes", "in_chans"):
            theirs, ours = getattr(model.module, field), getattr(self._student, field)
            if theirs != ours:
                raise UserError(
                    f"the teacher {self._name} has {field}={theirs}, the student {ours}: both must "
                    "have the same classes, in the same order, and see the same channels"
                )
        return model

    def constants(self) -> Constants:
        """Returns the parameters; see `Teacher`."""
        return self._constants

    @functools.cached_property
    def _constants(self) -> Constants:
        from vit_jax import models

        module, params = self._model.module, self._model.params
        images = jax.ShapeDtypeStruct((1, *self._size, module.in_chans), jnp.float32)
        axes = models.logical_axes(module, images)["params"]
        return Constants({"teacher": params}, {"teacher": axes}, _fingerprint(self._model))

    def flops(self) -> int:
        """Returns those of the model, see `Teacher`."""
        return self._model.module.flops()

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """Returns what the model says, see `Teacher`."""
        module = self._model.module
        if self._dtype is not None:
            module = module.clone(dtype=self._dtype)
        # The rules for activations are made for the student's sizes.
        with nn.logical_axis_rules(()):
            logits = module.apply({"params": params}, self._prepared(images))
        return jax.lax.stop_gradient(logits)

    @property
    def _size(self) -> tuple[int, int]:
        size = self._model.module.img_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def _prepared(self, images: jax.Array) -> jax.Array:
        """The student's images (b, h, w, c) as the teacher wants them."""
        own = self._model.preprocessing
        if (tuple(own.mean), tuple(own.std)) != (tuple(self._mean), tuple(self._std)):
            channels = images.shape[-1]
            mean, std, own_mean, own_std = (
                np.broadcast_to(np.asarray(x), channels)
                for x in (self._mean, self._std, _per_channel(own.mean), _per_channel(own.std))
            )
            scale, shift = std / own_std, (mean - own_mean) / own_std
            images = images * scale.astype(images.dtype) + shift.astype(images.dtype)
        if images.shape[1:3] != self._size:
            shape = (images.shape[0], *self._size, images.shape[-1])
            images = jax.image.resize(images, shape, own.interpolation, antialias=True)
        return images


def _per_channel(values: tuple[float, ...]) -> tuple[float, ...]:
    """One number where all channels have the same, which then fits any number of them."""
    return values[:1] if len(set(values)) == 1 else values


def _fingerprint(model: Any) -> str:
    """SHA-256 of the parameters, their names, and what the network and its images are."""
    digest = hashlib.sha256()
    for said in (type(model.module).__name__, model.preprocessing):
        digest.update(repr(said).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(leaf.view(np.uint8) if leaf.size else b"")
    return digest.hexdigest()


def make_teacher(
    source: str,
    student: nn.Module,
    surroundings: Surroundings,
    *,
    checkpoint: str | int = "last",
    model: str | None = None,
    dtype: Any = None,
) -> Teacher:
    """Returns the teacher that a configuration names.

    Args:
      source: the folder of a run, what `vit-jax convert` wrote, a weights file, a hub id; or
        "python:module:function".
      student: the module that learns from it.
      surroundings: of the run.
      checkpoint: which of a run: "last", "best" or a step.
      model: a name of `list_models()`, where the source does not say what it is.
      dtype: computation dtype; None: the teacher's own.

    Raises:
      UserError: no such function.
    """
    if source.startswith(FUNCTION):
        return FunctionTeacher(_function(source), source, student.num_classes)
    load = functools.partial(surroundings.load_model, source, checkpoint, model)
    return ModelTeacher(load, source, student, surroundings.mean, surroundings.std, dtype)


def _function(source: str) -> Function:
    """The function that "python:module:function" names."""
    module, _, name = source.removeprefix(FUNCTION).partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"objective.teacher is {source!r}: {error}; expected python:MODULE:FUNCTION, a "
            "function of images that Python can import from here"
        ) from error
    return function
