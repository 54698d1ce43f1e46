"""What a run is made of, put together from its configuration."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vit_jax import data, models
from vit_jax.data.transforms import Transform
from vit_jax.errors import UserError
from vit_jax.objectives import build_objective
from vit_jax.objectives.base import Batch, Objective, Surroundings
from vit_jax.training import optim, resolve, sharding
from vit_jax.training.lora import add_lora
from vit_jax.training.param_groups import any_fits
from vit_jax.training.partial import freeze, freeze_patterns
from vit_jax.training.state import StateFactory
from vit_jax.training.step import TrainStep, make_normalize, make_train_step


class Experiment:
    """Model, objective, mesh, state layout and data of a run; no array is made yet.

    Attributes:
      config: resolved.
      module: the model.
      objective: what is learned.
      mesh: the device mesh.
      batch_axes: the mesh axes that split a batch.
      batch_sharding: of every array of a batch.
      replicated: of what every device holds as a whole.
      state_factory: shapes, shardings and creation of the state.
      mean_std: of the images' normalisation, one each for every channel.
      normalize: of the images, on the devices.
    """

    def __init__(
        self,
        config: ConfigDict,
        devices: Sequence[jax.Device] | None = None,
        load_model: Callable[[str, str | int, str | None], Any] | None = None,
    ):
        """Builds everything that needs no data.

        Args:
          config: resolved, see `vit_jax.training.resolve`.
          devices: what the mesh is made of; None: all devices of all processes.
          load_model: see `Surroundings`; None: reads the model.

        Raises:
          UserError: unknown model, objective, optimizer, transform or option (the message has the
            nearest), or sizes that do not fit together.
        """
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh, devices)
        self._rules = rules = sharding.make_rules(config.sharding_rules)
        self.batch_axes = rules["batch"]
        self.batch_sharding = sharding.batch_sharding(self.mesh, rules)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        resolve.check_batches(config, sharding.batch_shards(self.mesh, rules))
        self.module = build_module(config.model)
        self.image_shape = (*_pair(self.module.img_size), self.module.in_chans)
        self.mean_std = _mean_std(config, self.module.in_chans)
        self.normalize = make_normalize(*self.mean_std)
        self._train_transform = self._transform("train_transform")
        self._eval_transform = self._transform("eval_transform")
        batch = _placeholder(self.image_shape)
        surroundings = Surroundings(*self.mean_std, load_model or _load_model)
        objective = build_objective(config, self.module, surroundings)
        self._constants = objective.constants
        self.objective = _trained_part(config, objective, batch)
        params, _ = jax.eval_shape(self.objective.init, jax.random.key(0), batch)
        self.optimizer = optim.make_optimizer(config, params, *_lengths(config), self.module)
        self.state_factory = StateFactory(
            self.objective,
            self.optimizer,
            batch,
            seed=config.seed,
            with_ema=config.ema_decay > 0,
            mesh=self.mesh,
            rules=rules,
        )

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Within it jitted functions are traced for this mesh."""
        with sharding.activate(self.mesh, self.state_factory.activation_rules):
            yield

    def train_step(self, constants: Any = None) -> TrainStep:
        """Returns the jitted update, see `vit_jax.training.step`.

        Args:
          constants: in the place of the objective's own, such as `constant_shapes()` for a step
            that is compiled and not run.
        """
        return make_train_step(
            self.objective,
            self.optimizer,
            optim.learning_rate(self.config, *_lengths(self.config)),
            self.normalize,
            seed=self.config.seed,
            accumulate=self.config.accumulate_steps,
            ema_decay=self.config.ema_decay,
            state_shardings=self.state_factory.shardings,
            batch_sharding=self.batch_sharding,
            constants=self._placed_constants() if constants is None else constants,
        )

    def batch_shapes(self) -> Batch:
        """Returns shapes, dtypes and shardings of a training batch."""
        row = {name: x[0] for name, x in self._train_transform.empty(1).items()}
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        rows = {**row, "label": scalar, "skipped": scalar}
        size, place = self.config.data.batch_size, self.batch_sharding
        return {
            name: jax.ShapeDtypeStruct((size, *x.shape), x.dtype, sharding=place)
            for name, x in rows.items()
        }

    def wish_shapes(self) -> jax.ShapeDtypeStruct:
        """Returns the same of the wishes to stop, see `vit_jax.training.preemption`."""
        place = sharding.one_a_device(self.mesh)
        return jax.ShapeDtypeStruct((self.mesh.size,), jnp.int32, sharding=place)

    def constant_shapes(self) -> Any:
        """Returns shapes, dtypes and shardings of the objective's constants."""
        constants = self._constants()
        places = sharding.param_shardings(constants.arrays, constants.axes, self._rules, self.mesh)
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            constants.arrays,
            places,
        )

    def all_shapes(self) -> Any:
        """Returns `jax.ShapeDtypeStruct`s of all parameters, those that are not trained too."""
        shapes = self.state_factory.shapes
        return jax.eval_shape(self.objective.all_params, shapes.params, shapes.extra)

    def training_flops(self) -> float:
        """Returns the floating-point operations that one image needs in one step of training."""
        shapes = (self.state_factory.shapes.params, self.all_shapes())
        trained, every = (sum(x.size for x in jax.tree.leaves(tree)) for tree in shapes)
        return self.objective.training_flops(trained / every)

    def fingerprint(self) -> str | None:
        """Of what a run needs beside its data and never changes, such as a teacher."""
        return self._constants().fingerprint

    def _placed_constants(self) -> Any:
        constants = self._constants()
        return sharding.place(constants.arrays, constants.axes, self._rules, self.mesh)

    @contextlib.contextmanager
    def train_batches(self, source: data.Source, start: int) -> Iterator[Iterator[Batch]]:
        """Yields the endless iterator over training batches on the devices, from number `start`."""
        c = self.config.data
        batches = data.train_batches(
            source,
            self._train_transform,
            batch_size=c.batch_size,
            seed=self.config.seed,
            start_batch=start,
            workers=c.workers,
            on_error=c.on_error,
            cache=c.cache,
            repeats=c.repeats,
            rows=data.own_rows(self.batch_sharding, c.batch_size),
        )
        with self._on_devices(batches) as prefetched:
            yield prefetched

    @contextlib.contextmanager
    def eval_batches(self, source: data.Source) -> Iterator[Iterator[Batch]]:
        """Yields an iterator over all examples of `source`, on the devices, with a mask."""
        c = self.config.data
        batches = data.eval_batches(
            source,
            self._eval_transform,
            batch_size=c.eval_batch_size,
            workers=c.workers,
            on_error=c.on_error,
            rows=data.own_rows(self.batch_sharding, c.eval_batch_size),
        )
        with self._on_devices(batches) as prefetched:
            yield prefetched

    @contextlib.contextmanager
    def _on_devices(self, batches: Any) -> Iterator[Iterator[Batch]]:
        with contextlib.closing(batches):
            prefetched = data.prefetch_to_device(batches, self.batch_sharding)
            with contextlib.closing(prefetched):
                yield prefetched

    def _transform(self, key: str) -> Transform:
        *size, channels = self.image_shape
        preprocessing = models.preprocessing(self.config.model.name)
        spec = self.config.data[key]
        if spec is None:  # of evaluation: as the model was evaluated
            spec = data.eval_transform(preprocessing)
        interpolation = self.config.data.interpolation or preprocessing.interpolation
        with _naming(f"data.{key}"):
            return data.build_transform(spec, tuple(size), channels, interpolation)


def _trained_part(config: ConfigDict, objective: Objective, batch: Batch) -> Objective:
    """The objective without what is frozen, or with adapters."""
    if config.lora.save_only_adapters and config.init_from is None:
        raise UserError(
            "lora.save_only_adapters leaves out of checkpoints what init_from gives, and init_from "
            "is None: set it, or save everything"
        )
    if config.lora.rank is not None and config.optim.frozen:
        raise UserError(
            f"optim.frozen={config.optim.frozen} has no effect with lora.rank={config.lora.rank}: "
            "all but adapters and lora.trained is frozen; take it out"
        )
    if objective.trained is not None:
        if config.optim.frozen or config.lora.rank is not None:
            raise UserError(
                f"objective {config.objective.name!r} trains {objective.trained} and nothing else: "
                "leave out optim.frozen and lora.rank"
            )
        return freeze(objective, batch, lambda name: not any_fits(objective.trained, name))
    objective = add_lora(objective, batch, config.lora)
    return freeze_patterns(objective, batch, config.optim.frozen)


def build_module(config: ConfigDict) -> nn.Module:
    """Returns the model that `config.model` describes; what is None there is the model's own.

    Raises:
      UserError: unknown name or field, with the nearest ones.
    """
    fields = dict(config)
    name = fields.pop("name")
    for key in ("num_classes", "img_size"):
        if fields.get(key) is None:
            fields.pop(key, None)
    with _naming("config.model"):
        return models.create_model(name, **fields)


def _load_model(source: str, checkpoint: str | int, name: str | None) -> Any:
    from vit_jax.training import load_teacher  # which reads runs, and they are experiments

    return load_teacher.load_model(source, checkpoint, name)


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Puts the key that a value came from before the error about it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _mean_std(config: ConfigDict, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for normalisation, one each for every channel."""
    preprocessing = models.preprocessing(config.model.name)
    found = []
    for key in ("mean", "std"):
        values = config.data[key]
        if values is None:
            values = getattr(preprocessing, key)
            if len(set(values)) == 1:  # the same for all channels, so for any number of them
                values = values[:1] * channels
        if len(values) != channels:
            raise UserError(
                f"data.{key} is {values}, {len(values)} numbers, and the model's images have "
                f"{channels} channels; set data.{key} to {channels} numbers"
            )
        found.append(tuple(values))
    return found[0], found[1]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _placeholder(image_shape: tuple[int, int, int]) -> Batch:
    """Shapes and dtypes of a batch of one as an objective sees it."""
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    return {
        "image": jax.ShapeDtypeStruct((1, *image_shape), dtype),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
    }


def _lengths(config: ConfigDict) -> tuple[int, float]:
    """Total steps, and a length of the epoch that is of no effect: durations are in steps."""
    return config.total_steps, 1.0
