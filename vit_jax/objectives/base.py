"""What an objective is: read this before writing one.

The training loop knows nothing about classification, masked autoencoding or distillation. It holds
an `Objective` and calls its methods in this order:

    params, extra = objective.init(rng, batch)                      # once, before the first step
    # every step, inside one jitted function:
    loss, (metrics, extra) = objective.loss(params, extra, batch, rng, step)
    params = optimizer(params, gradient of loss)
    extra = objective.after_update(params, extra, step)
    # every evaluation:
    results = objective.evaluation(context)
    print(objective.describe(results))
    pictures = objective.pictures(context)                          # for TensorBoard

Two trees make up what the objective owns:

- `params` is everything the optimizer trains: the module's parameters and any more the objective
  brings along (a decoder, a projection head). Nothing else receives a gradient.
- `extra` is everything else that one step leaves to the next: a teacher's weights that follow the
  student as a moving average, the centre of DINO's teacher outputs, a queue of negatives. It is
  saved in checkpoints next to `params` and `{}` for most objectives.

An objective is a frozen dataclass: its fields are the module and its hyper-parameters, never
arrays. All randomness comes from `rng`, all knowledge of time from `step`; there is no hidden
state, so a run that was killed continues as if it had not been.

A batch is a dict of arrays of the *global* batch: `"image"` (b, h, w, c) float, already normalised,
and `"label"` (b,) int32; other data sources add keys. A mean over the batch axis is therefore a
mean over all devices and hosts, with no collective to call.

To add an objective: write it in a file of its own here, enter it in `OBJECTIVES` in `__init__.py`
and give `config.objective = {"name": ..., options}`. `classification.py` is the plainest example.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import linen as nn

Params = Any
Extra = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
PerExample = Callable[[Params, Extra, Batch], Metrics]
OfBatch = Callable[[Params, Extra, Batch], Any]


class EvaluationContext(Protocol):
    """What the loop lends to `Objective.evaluation`: the state and the evaluation data.

    Attributes:
      params: the trained tree, or its moving average.
      extra: the carried tree.
      mean: of the normalisation of images, per channel, on a scale of 0 to 1.
      std: of the normalisation, per channel.
    """

    params: Params
    extra: Extra
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def masked_means(self, per_example: PerExample) -> dict[str, float]:
        """Runs `per_example` over the whole evaluation split and averages each of its values.

        Every example counts exactly once: the rows that pad the last batch are left out.

        Args:
          per_example: traced once; like `Objective.evaluate`.
        """

    def on_first_batch(self, function: OfBatch) -> Any:
        """Runs `function` on the first batch of the evaluation split.

        Args:
          function: traced once; from parameters, carried tree and batch to a tree of arrays.

        Returns:
          The tree with NumPy arrays, on every process.
        """


@dataclasses.dataclass(frozen=True)
class Constants:
    """What a run needs in training and does not change, see `Objective.constants`.

    Attributes:
      arrays: trees of NumPy arrays, by the name that they have in the batch.
      axes: trees of the same structure with logical axis names in the place of arrays.
      fingerprint: of the content, None where there is none.
    """

    arrays: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What an objective may know of the run around it.

    Attributes:
      mean: of the images' normalisation, per channel, on a scale of 0 to 1.
      std: per channel.
      load_model: (source, which checkpoint of a run, name of the model where the source has none)
        -> a model with NumPy parameters (`vit_jax.convert.folder.Model`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    load_model: Callable[[str, str | int, str | None], Any]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is learned. Subclasses write `loss` and `evaluate` and override the rest at need.

    Attributes:
      module: the model; `params` are its parameters unless `init` says otherwise.
    """

    module: nn.Module

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Patterns of the parameters that are trained; None, the default: all of them."""
        return None

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, Extra]:
        """Returns the first `params` and `extra`.

        It is traced, under `jit` with sharded outputs and under `eval_shape`: the values of `batch`
        are placeholders, its shapes and dtypes are real.

        Args:
          rng: one key; split it for several sets of parameters.
          batch: a batch as the training step will see it.

        Returns:
          Two trees of arrays. By default the module's parameters for `batch["image"]`, and `{}`.
        """
        return self.module.init(rng, batch["image"])["params"], {}

    def logical_axes(self, batch: Batch) -> tuple[Any, Any]:
        """Returns the trees of `init` with logical axis names in the place of arrays.

        A leaf is a tuple with a name, or None, for each axis of the array. The names map to mesh
        axes by `config.sharding_rules`; a teacher's weights carry the same names as the student's.

        Args:
          batch: shapes and dtypes suffice (`jax.ShapeDtypeStruct`).
        """
        from vit_jax import models

        return models.logical_axes(self.module, batch["image"])["params"], {}

    def training_flops(self, trained: float) -> float:
        """Returns the floating-point operations that one image needs in one step of training.

        By default those of the forward pass, as many again for the gradient of what goes through
        the layers, and as many for the gradient of the weights as are trained. What is computed
        anew to save memory does not count.

        Args:
          trained: share of the parameters that is trained, 0 to 1.
        """
        return (2 + trained) * self.module.flops()

    def all_params(self, params: Params, extra: Extra) -> Params:
        """Returns `params` with what is kept out of training, where an objective trains a part.

        Args:
          params: the trained tree, or its moving average.
          extra: the carried tree.
        """
        del extra
        return params

    def module_params(self, params: Params) -> Params:
        """Returns the module's own parameters: what is exported. By default all.

        Args:
          params: as `all_params` returned them.
        """
        return params

    def exported_params(self, params: Params, extra: Extra) -> Params:
        """Returns the module's own parameters, which do by themselves what was learned.

        Args:
          params: the trained tree, or its moving average.
          extra: the carried tree.
        """
        return self.module_params(self.all_params(params, extra))

    def with_module_params(
        self, params: Params, extra: Extra, module_params: Params
    ) -> tuple[Params, Extra]:
        """Returns `params` and `extra` for a start from pretrained parameters of the module.

        Args:
          params: as `init` gave them.
          extra: as `init` gave it; where it holds a copy of the module's parameters, that changes
            as well.
          module_params: what takes the place of what `module_params` returns.
        """
        del params
        return module_params, extra

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns what to minimise, and what the step leaves behind.

        Traced and differentiated with respect to `params`. With gradient accumulation it is called
        for each part of the batch in turn, each with a key of its own; `extra` goes from one part
        to the next, metrics and gradients are averaged.

        Args:
          params: the trained tree.
          extra: the carried tree. Where a target must not be differentiated, stop its gradient.
          batch: the batch, or the part of it.
          rng: a key for this step, the same after a resume.
          step: int32 scalar, counted from 0.

        Returns:
          The scalar loss, then `(metrics, extra)`: scalars (means over the batch) to log by plain
          names, the loss included, and the tree to carry on, with unchanged structure.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define loss()")

    def constants(self) -> Constants:
        """Returns what `loss` finds in its batch beside the data and what never changes.

        Such as a frozen teacher's weights. Not traced. It is read anew at every start of a run and
        is in no checkpoint; a run that goes on with another fingerprint is refused. By default
        nothing.
        """
        return Constants()

    def after_update(self, params: Params, extra: Extra, step: jax.Array) -> Extra:
        """Returns `extra` after the optimizer has moved `params`: the place for moving averages.

        Traced; called once a step, also with gradient accumulation. By default `extra` as it was.

        Args:
          params: the trained tree after the update of this step.
          extra: as `loss` returned it.
          step: the same number that `loss` got.
        """
        del params, step
        return extra

    def evaluate(self, params: Params, extra: Extra, batch: Batch) -> Metrics:
        """Returns values of shape (b,), one for each example, by plain names.

        Traced. It sees padded rows too; the caller leaves them out of the average.

        Args:
          params: the trained tree, or its moving average.
          extra: the carried tree.
          batch: an evaluation batch.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to define evaluate(), or evaluation() for results that "
            "are not means over examples"
        )

    def evaluation(self, context: EvaluationContext) -> dict[str, float]:
        """Returns the results of one evaluation by plain names.

        Not traced. By default the means of `evaluate` over the split; override it for what is not
        a mean over examples, such as a nearest-neighbour classifier.

        Args:
          context: the state to be evaluated and the means to run over the data.
        """
        return context.masked_means(self.evaluate)

    def pictures(self, context: EvaluationContext) -> dict[str, np.ndarray]:
        """Returns pictures `(height, width, 1 or 3)` uint8 by plain names, to log beside results.

        Not traced; called after each evaluation of a run. By default none.

        Args:
          context: as of `evaluation`.
        """
        del context
        return {}

    def describe(self, results: dict[str, float]) -> str:
        """Returns the results of `evaluation` as a short line for people.

        Args:
          results: as `evaluation` returned them.
        """
        return ", ".join(f"{name} {value:.4g}" for name, value in results.items())
