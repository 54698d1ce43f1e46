"""The training step of a configuration, traced on one device: what it computes and holds.

Layers are laid out as for a GPU or a TPU. Blocks run under a scan where they can: one is traced for
all of them. What is kept is the same as unrolled, byte by byte, and so is what XLA lays out, nearly
(docs/inspect.md).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vit_jax.ahead.teacher import described_model
from vit_jax.inspect import live
from vit_jax.models import field_ranges
from vit_jax.models.layers.platform import laid_out_for_accelerators
from vit_jax.models.mae import MaskedAutoencoder, num_kept
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer
from vit_jax.training.config import open_and_lock
from vit_jax.training.experiment import Experiment
from vit_jax.training.step import BOOKKEEPING


def traced_experiment(config: ConfigDict, rows: int, remat: str | None = None) -> Experiment:
    """Returns the experiment of a part of a batch on one device, with scanned blocks.

    Args:
        config: resolved.
        rows: images that the device works on at once.
        remat: in the place of the configuration's, where blocks can be scanned.
    """
    config = open_and_lock(config.copy_and_resolve_references())
    with config.ignore_type():
        config.mesh.update(dict.fromkeys(config.mesh, 1))
        config.accumulate_steps = 1
        config.data.batch_size = config.data.eval_batch_size = rows
    if "scan" in field_ranges(config.model.name):
        config.model.scan = True
        if remat is not None:
            config.model.remat = remat
    load_model = functools.partial(described_model, num_classes=config.model.num_classes)
    return Experiment(config, jax.devices()[:1], load_model=load_model)


class Step:
    """The loss and its gradient, as one device computes them of some images."""

    def __init__(self, experiment: Experiment):
        """Takes the experiment of `traced_experiment`."""
        self.experiment = experiment
        self.is_score = live.scores_of(tokens(experiment.module))

    @laid_out_for_accelerators()
    def kept(self) -> list[live.Kept]:
        """Returns what the backward pass needs of the forward pass, see `live.kept`."""
        params, *others = self.arguments(self._rows)
        return live.kept(self.loss, params, *others, is_score=self.is_score)

    @laid_out_for_accelerators()
    def gradient(self, rows: int) -> Any:
        """Returns the traced program of the gradient for so many images."""
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        return live.program(gradient, *self.arguments(rows))

    @laid_out_for_accelerators()
    def forward(self, rows: int) -> Any:
        """Returns the traced program of a prediction, without training."""
        module = self.experiment.module

        def predict(params: Any, image: Any) -> Any:
            return module.apply({"params": params}, image, rngs={"mask": jax.random.key(0)})

        image = jax.ShapeDtypeStruct((rows, *self.experiment.image_shape), jnp.float32)
        params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        return live.program(predict, params, image)

    @property
    def _rows(self) -> int:
        return self.experiment.config.data.batch_size

    def loss(self, params: Any, extra: Any, batch: Any, constants: Any) -> Any:
        """Returns the loss, and (metrics, extra), of a batch as the data pipeline gives it."""
        batch = self.experiment.normalize(batch) | constants
        key, step = jax.random.key(0), jnp.int32(0)
        return self.experiment.objective.loss(params, extra, batch, key, step)

    def arguments(self, rows: int) -> tuple[Any, ...]:
        """Returns the shapes of what `loss` is given for so many images."""
        state = self.experiment.state_factory.shapes
        batch = {
            name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
            for name, x in self.experiment.batch_shapes().items()
            if name not in BOOKKEEPING
        }
        return state.params, state.extra, batch, self.experiment.constant_shapes()


def tokens(module: PlainModule) -> tuple[int, ...]:
    """Returns over how many tokens a module's attention goes; several where its stages differ."""
    if isinstance(module, SwinTransformer):
        return tuple({p * q for p, q in module.windows()})
    if not isinstance(module, VisionTransformer):
        return ()
    rows, columns = module.grid()
    n, prefix = rows * columns, module.num_prefix_tokens
    seen = [num_kept(n, module.mask_ratio)] if isinstance(module, MaskedAutoencoder) else []
    return tuple(x + prefix for x in (n, *seen))


@dataclasses.dataclass(frozen=True)
class Timeline:
    """What is held at each step of a program, as a function of the number of images.

    Attributes:
        constant: bytes that do not depend on it, such as gradients.
        image: bytes an image.
    """

    constant: np.ndarray
    image: np.ndarray

    def at(self, rows: int) -> int:
        """Returns the most that is held for so many images, in bytes."""
        return round(float(np.max(self.constant + self.image * rows)))

    def most(self, memory: float) -> int:
        """Returns the largest number of images that so many bytes are enough for; 0 for none."""
        free = memory - self.constant
        if np.any(free < 0):
            return 0
        growing = self.image > 0
        return int(np.min(free[growing] // self.image[growing]))


def timeline(two: Any, four: Any, ignored: live.Ignored = live.nothing) -> Timeline:
    """Returns the timeline of a program from what it holds for two and for four images.

    Args:
        two: the program for two images, such as `Step.gradient(2)`.
        four: the same for four.
        ignored: see `live.timeline`.
    """
    few, more = live.timeline(two, ignored), live.timeline(four, ignored)
    image = (more - few) / 2
    return Timeline(few - 2 * image, image)
