"""One update of the parameters, as one jitted function over the mesh; and one evaluation step.

The state is donated: it must not be used after the call. Arrays keep their shardings, so nothing
is gathered between steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.objectives.base import Batch, Metrics, Objective, OfBatch, PerExample
from vit_jax.training.erase import erase
from vit_jax.training.sharding import one_a_device
from vit_jax.training.state import TrainState, keys

Normalize = Callable[[Batch], Batch]

# What the data pipeline sends along with a batch; objectives do not see it.
BOOKKEEPING = ("mask", "skipped")


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The jitted update, and what it is given at every step.

    Attributes:
      jitted: (state, batch, wishes, constants) -> (state, metrics).
      constants: of the objective, on the devices.
    """

    jitted: Any
    constants: Any

    def __call__(
        self, state: TrainState, batch: Batch, wishes: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        """Makes one update; the state is donated."""
        return self.jitted(state, batch, wishes, self.constants)

    def lower(
        self, state: TrainState, batch: Batch, wishes: jax.Array | None = None
    ) -> jax.stages.Lowered:
        """Returns the program, traced and not compiled."""
        return self.jitted.lower(state, batch, wishes, self.constants)


def make_normalize(mean: Sequence[float], std: Sequence[float]) -> Normalize:
    """Returns a function that turns the uint8 images of a batch into (x / 255 - mean) / std.

    Then it erases what the transform has marked, see `vit_jax.training.erase`. It computes in
    float32, or float64 under `jax_enable_x64`. `BOOKKEEPING` is taken out of the batch.

    Args:
      mean: per channel, on a scale of 0 to 1.
      std: per channel, on a scale of 0 to 1.
    """

    def normalize(batch: Batch) -> Batch:
        dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
        image = batch["image"].astype(dtype) / 255
        image = (image - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)
        rest = {name: x for name, x in batch.items() if name not in BOOKKEEPING}
        return erase({**rest, "image": image})

    return normalize


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    normalize: Normalize,
    *,
    seed: int,
    accumulate: int,
    ema_decay: float,
    state_shardings: TrainState,
    batch_sharding: NamedSharding,
    constants: Any = None,
) -> TrainStep:
    """Returns the jitted step `(state, batch, wishes) -> (state, metrics)`.

    Call it under `activate`. Metrics are scalars: the objective's own, "loss", "learning_rate",
    "gradient_norm" (before clipping), "parameter_norm" (after the update), "skipped" where the
    batch has it (the number of examples replaced because their file could not be decoded) and
    "stop" where there are wishes to stop (the number of devices whose process was told to; see
    `vit_jax.training.preemption`).

    Args:
      objective: what is learned.
      optimizer: clipping, schedule and decay included.
      learning_rate: the schedule, for the log alone.
      normalize: of the images, see `make_normalize`.
      seed: of the run.
      accumulate: number of micro-batches, which divides the rows on each device.
      ema_decay: of the running average; used where the state has one.
      state_shardings: of the state, before and after.
      batch_sharding: of every array of the batch.
      constants: of the objective, by name, on the devices; None where it has none.
    """
    train_key = keys(seed)[1]

    def step_fn(
        state: TrainState, batch: Batch, wishes: jax.Array | None, constants: Any
    ) -> tuple[TrainState, Metrics]:
        def gradients(
            params: Any, extra: Any, batch: Batch, key: jax.Array, step: jax.Array
        ) -> Any:
            """((loss, (metrics, extra)), gradients) of one batch that fits the memory."""
            grad = jax.value_and_grad(objective.loss, has_aux=True)
            return grad(params, extra, normalize(batch) | constants, key, step)

        counted = {"skipped": batch.get("skipped"), "stop": wishes}
        counts = {name: jnp.sum(x > 0) for name, x in counted.items() if x is not None}
        batch = {name: x for name, x in batch.items() if name not in BOOKKEEPING}
        key = jax.random.fold_in(train_key, state.step)
        (loss, (metrics, extra)), grads = _accumulated(
            gradients, state, batch, key, accumulate, batch_sharding
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            **metrics,
            "learning_rate": learning_rate(state.step),
            "gradient_norm": optax.tree.norm(grads),
            "parameter_norm": optax.tree.norm(params),
            **counts,
        }
        return TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=_moved_average(state.ema, params, ema_decay),
            extra=objective.after_update(params, extra, state.step),
        ), metrics

    replicated = NamedSharding(batch_sharding.mesh, PartitionSpec())
    constants = constants or {}
    placed = jax.tree.map(lambda x: x.sharding, constants)
    jitted = jax.jit(
        step_fn,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_sharding, one_a_device(batch_sharding.mesh), placed),
        out_shardings=(state_shardings, replicated),
    )
    return TrainStep(jitted, constants)


def _accumulated(
    gradients: Callable[..., Any],
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    parts: int,
    batch_sharding: NamedSharding,
) -> Any:
    """Returns what `gradients` returns for the whole batch, computed on `parts` parts in turn.

    Loss, metrics and gradients are means over parts of equal size, hence over the batch; `extra`
    goes from part to part.
    """
    if parts == 1:
        return gradients(state.params, state.extra, batch, key, state.step)

    def one_part(carry: Any, inputs: Any) -> Any:
        total, extra = carry
        index, part = inputs
        (loss, (metrics, extra)), grads = gradients(
            state.params, extra, part, jax.random.fold_in(key, index), state.step
        )
        return (jax.tree.map(jnp.add, total, grads), extra), (loss, metrics)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    inputs = (jnp.arange(parts), _split(batch, parts, batch_sharding))
    (total, extra), scalars = jax.lax.scan(one_part, (zeros, state.extra), inputs)
    loss, metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), scalars)
    return (loss, (metrics, extra)), jax.tree.map(lambda g: g / parts, total)


def _split(batch: Batch, parts: int, batch_sharding: NamedSharding) -> Batch:
    """Returns the batch as (parts, b / parts, ...), every row staying on its device.

    Part i takes the rows i, i + parts, i + 2 parts ...: each device holds a run of consecutive
    rows, so it holds an equal share of every part.
    """
    sharding = NamedSharding(batch_sharding.mesh, PartitionSpec(None, *batch_sharding.spec))

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(split, batch)


def _moved_average(ema: Any, params: Any, decay: float) -> Any:
    if ema is None:
        return None
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)


def make_of_batch(
    function: OfBatch, normalize: Normalize, replicated: NamedSharding
) -> Callable[[Any, Any, Batch], Any]:
    """Returns `function` jitted, on a batch as it comes from the data; see `make_masked_sums`."""

    def of_batch(params: Any, extra: Any, batch: Batch) -> Any:
        return function(params, extra, normalize(batch))

    return jax.jit(of_batch, out_shardings=replicated)


def make_masked_sums(
    per_example: PerExample, normalize: Normalize, replicated: NamedSharding
) -> Callable[[Any, Any, Batch], tuple[Metrics, jax.Array, jax.Array]]:
    """Returns a jitted function that sums `per_example` over the real rows of a batch.

    Args:
      per_example: (params, extra, batch) -> values of shape (b,) by name.
      normalize: of the images, see `make_normalize`.
      replicated: sharding of the result.

    Returns:
      A function (params, extra, batch) -> (sums by name, number of real rows, number of rows whose
      example could not be decoded).
    """

    def masked_sums(params: Any, extra: Any, batch: Batch) -> tuple[Metrics, jax.Array, jax.Array]:
        real = batch["mask"] > 0
        values = per_example(params, extra, normalize(batch))
        # A padded row may be anything, infinite included, so it is replaced and not multiplied.
        sums = {name: jnp.sum(jnp.where(real, x, 0.0)) for name, x in values.items()}
        return sums, jnp.sum(real), jnp.sum(batch["skipped"] > 0)

    return jax.jit(masked_sums, out_shardings=replicated)
