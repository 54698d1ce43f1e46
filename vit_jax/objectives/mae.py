"""Masked autoencoding: the pixels of the patches that the encoder has not seen.

He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022), section 3, "Reconstruction
target": the mean squared error of the masked patches alone, of pixels as they are or normalised
patch by patch.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.layers.patch import patchify, unpatchify
from vit_jax.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from vit_jax.objectives.base import (
    Batch,
    EvaluationContext,
    Extra,
    Metrics,
    Objective,
    Params,
)
from vit_jax.visualize import reconstructions

EPSILON = 1e-6  # added to the variance of a patch, as in the authors' code
SHOWN = 8  # pictures
LEVELS = 16  # steps of a normalised pixel that tell pictures apart, see `fixed_noise`


def patch_statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of each patch of `(b, n, pixels)` and root of its variance plus `EPSILON`, `(b, n, 1)`.

    The variance is the unbiased one, over `pixels - 1`, as in the authors' code.
    """
    mean = patches.mean(axis=-1, keepdims=True)
    return mean, jnp.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + EPSILON)


def paint(
    module: MaskedAutoencoder, prediction: jax.Array, images: jax.Array, norm_pix_loss: bool
) -> jax.Array:
    """The pictures `(b, h, w, c)` that predicted patches are of, on the scale of `images`.

    Args:
      module: which gave the prediction.
      prediction: of every patch `(b, n, pixels)`, `MaskedAutoencoderOutput.prediction`.
      images: what was to be predicted, normalised.
      norm_pix_loss: the model was trained to give normalised patches: the mean and the variance of
        each true patch are put back.
    """
    if norm_pix_loss:
        mean, deviation = patch_statistics(patchify(images, module.stride))
        prediction = prediction * deviation + mean
    return unpatchify(prediction, module.grid(images.shape[1:3]), module.stride)


def fixed_noise(images: jax.Array, patches: int) -> jax.Array:
    """Noise `(b, patches)` that follows from each picture `(b, h, w, c)` alone.

    So that an evaluation masks the same patches of the same picture every time, on any mesh and in
    batches of any size. Pixels are rounded first: another machine may round the last bit of a
    normalised pixel otherwise.
    """
    levels = jnp.round(images * LEVELS).astype(jnp.int32).reshape(len(images), -1)
    keys = jax.vmap(lambda total: jax.random.fold_in(jax.random.key(0), total))(levels.sum(axis=1))
    return jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoding(Objective):
    """Minimises the mean squared error of masked patches.

    Attributes:
      module: a `MaskedAutoencoder`.
      norm_pix_loss: the target is each patch minus its mean, over the root of its variance.
    """

    norm_pix_loss: bool = False

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns the mean error of masked patches; logs "loss" and "target_variance"."""
        del step
        mask_key, dropout_key = jax.random.split(rng)
        noise = jax.random.uniform(mask_key, (len(batch["image"]), self._patches(batch["image"])))
        output = self.module.apply(
            {"params": params},
            batch["image"],
            train=True,
            noise=noise,
            rngs={"dropout": dropout_key},
        )
        metrics = {k: x.mean() for k, x in self._per_example(output, batch["image"]).items()}
        return metrics["loss"], (metrics, extra)

    def evaluate(self, params: Params, extra: Extra, batch: Batch) -> Metrics:
        """Returns "loss" and "target_variance" of every example.

        A picture has the same mask in every evaluation, see `fixed_noise`.
        """
        del extra
        return self._per_example(self._fixed(params, batch["image"]), batch["image"])

    def describe(self, results: dict[str, float]) -> str:
        """Returns such as "loss 0.4312, masked pixels vary by 0.9981"."""
        return f"loss {results['loss']:.4f}, masked pixels vary by {results['target_variance']:.4f}"

    def pictures(self, context: EvaluationContext) -> dict[str, np.ndarray]:
        """Returns "reconstruction", rows of `visualize.reconstructions` of the first examples."""
        images, painted, mask = context.on_first_batch(self._painted)
        sheet = reconstructions(images, painted, mask, context.mean, context.std)
        return {"reconstruction": sheet}

    def targets(self, images: jax.Array) -> jax.Array:
        """What every patch is to be `(b, n, pixels)`."""
        patches = patchify(images, self.module.stride)
        if not self.norm_pix_loss:
            return patches
        mean, deviation = patch_statistics(patches)
        return (patches - mean) / deviation

    def _patches(self, images: jax.Array) -> int:
        return math.prod(self.module.grid(images.shape[1:3]))

    def _fixed(self, params: Params, images: jax.Array) -> MaskedAutoencoderOutput:
        noise = fixed_noise(images, self._patches(images))
        return self.module.apply({"params": params}, images, noise=noise)

    def _per_example(self, output: MaskedAutoencoderOutput, images: jax.Array) -> Metrics:
        """Of each example, its error, and the variance of what it has to give.

        The latter is the error of the best single number, so a model that has learned something is
        below it. As many patches are masked in each image as in any other, so that the mean over
        images is the mean over all masked patches of the batch.
        """
        targets, share = self.targets(images), output.mask / output.mask.sum(axis=1, keepdims=True)

        def masked_mean(x: jax.Array) -> jax.Array:
            return (x.mean(axis=-1) * share).sum(axis=1)

        error = masked_mean(jnp.square(output.prediction - targets))
        centre = masked_mean(targets)[:, None, None]
        variance = masked_mean(jnp.square(targets - centre))
        return {"loss": error, "target_variance": variance}

    def _painted(
        self, params: Params, extra: Extra, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images, what is painted, and masks `(b, rows, columns)`, of a few examples."""
        del extra
        images = batch["image"][:SHOWN]
        output = self._fixed(params, images)
        painted = paint(self.module, output.prediction, images, self.norm_pix_loss)
        return images, painted, output.mask.reshape(-1, *self.module.grid(images.shape[1:3]))


def build_mae(module: MaskedAutoencoder, *, norm_pix_loss: bool = False) -> MaskedAutoencoding:
    """Builds the objective from the options of `config.objective`.

    Args:
      module: the masked autoencoder.
      norm_pix_loss: normalised pixels as the target, which the paper finds better to learn from.

    Raises:
      UserError: another kind of module.
    """
    if not isinstance(module, MaskedAutoencoder):
        raise UserError(
            f"the objective 'mae' trains a masked autoencoder, not a {type(module).__name__}; set "
            "config.model.name to one of vit_jax.list_models('mae_*')"
        )
    return MaskedAutoencoding(module, norm_pix_loss)
