"""What one training step hands to the next, and how it comes to be on the devices.

There is no random key in it: every key is a function of (seed, step), see `keys`. The data
position is the step as well: update number k uses batch number k.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.objectives.base import Batch, Objective
from vit_jax.training import sharding


@flax.struct.dataclass
class TrainState:
    """The whole state of a run.

    Attributes:
      step: int32 scalar, the number of updates made.
      params: what the optimizer trains.
      opt_state: the optimizer's moments and counters.
      ema: running average of `params`, or None where the run keeps none.
      extra: what the objective carries from step to step.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    extra: Any

    @property
    def averaged_params(self) -> Any:
        """The parameters to evaluate: the running average where there is one."""
        return self.params if self.ema is None else self.ema


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of initialisation and of training; fold the step into the latter."""
    root = jax.random.key(seed)
    return jax.random.fold_in(root, 0), jax.random.fold_in(root, 1)


class StateFactory:
    """Knows shapes and shardings of the state, and makes the first one on the devices.

    Attributes:
      shapes: a TrainState of `jax.ShapeDtypeStruct`.
      shardings: a TrainState of `NamedSharding`.
      activation_rules: the rules for `sharding.activate`.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        batch: Batch,
        *,
        seed: int,
        with_ema: bool,
        mesh: Mesh,
        rules: sharding.Rules,
    ):
        """Traces the initialisation; nothing is allocated.

        Args:
          objective: gives the first parameters and their logical axes.
          optimizer: gives the first optimizer state.
          batch: `jax.ShapeDtypeStruct`s of a batch as the objective sees it; its size is free.
          seed: of the run.
          with_ema: whether the state holds a running average.
          mesh: the device mesh.
          rules: mesh axes of each logical name.
        """
        self._mesh = mesh
        self._init = _initializer(objective, optimizer, batch, seed, with_ema)
        self.shapes = jax.eval_shape(self._init)
        params_axes, extra_axes = objective.logical_axes(batch)
        sharding.check_names(
            rules, (self.shapes.params, params_axes), (self.shapes.extra, extra_axes)
        )
        params = sharding.param_shardings(self.shapes.params, params_axes, rules, mesh)
        self.shardings = TrainState(
            step=NamedSharding(mesh, PartitionSpec()),
            params=params,
            opt_state=sharding.shardings_like_params(
                self.shapes.opt_state, self.shapes.params, params, mesh
            ),
            ema=params if with_ema else None,
            extra=sharding.param_shardings(self.shapes.extra, extra_axes, rules, mesh),
        )
        # What is not trained has named dimensions too.
        self.activation_rules = sharding.activation_rules(
            rules,
            (self.shapes.params, self.shapes.extra),
            (params_axes, extra_axes),
            mesh,
        )

    def create(self) -> TrainState:
        """Returns the first state, each device computing its own part of it."""
        with jax.set_mesh(self._mesh):
            return jax.jit(self._init, out_shardings=self.shardings)()

    def targets(self) -> TrainState:
        """Returns shapes with their shardings: what a checkpoint is restored to."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            self.shapes,
            self.shardings,
        )


def _initializer(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    seed: int,
    with_ema: bool,
) -> Any:
    """Returns the function without arguments that computes the first state."""

    def init() -> TrainState:
        placeholder = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
        params, extra = objective.init(keys(seed)[0], placeholder)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if with_ema else None,
            extra=extra,
        )

    return init
