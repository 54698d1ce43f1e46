"""What an exported program computes: a model as one function of its pictures.

    pictures -> [x / 255, - mean, / std] -> model -> logits, or features

Attention is the portable one ("xla") and blocks are unrolled: the program is the same wherever it
runs, and has no loops. A masked autoencoder is its encoder, which looks at all patches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import naming, ranges
from vit_jax.convert.folder import Model
from vit_jax.convert.pretrained import check_not_rounded
from vit_jax.inference.features import seeing, with_features
from vit_jax.models import unstack_blocks
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.registry import Preprocessing
from vit_jax.models.vit import FIELD_RANGES, VisionTransformer, pair

PIXELS = ("normalized", "uint8")
DTYPES = ("float32", "bfloat16")
PORTABLE = {"attn_backend": "xla", "remat": "none", "scan": False}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model becomes a program.

    Attributes:
        which: features in place of the prediction: "pooled", "cls", "mean" or "tokens", see
            `vit_jax.inference.features`. None: what the model gives: logits; without a head the
            pooled features; of a masked autoencoder, or without pooling, all tokens.
        pixels: what goes in: "normalized", float32 as `vit_jax.preprocess` gives it and the model
            takes it; or "uint8", 0 to 255, normalised by the program.
        img_size: height and width of the pictures, or one number; None for the model's own.
            Positions are resampled for another one.
        dtype: of the computation, "float32" or "bfloat16"; None for the model's own.

    Raises:
        UserError: a value is none of these.
    """

    which: str | None = None
    pixels: str = "normalized"
    img_size: int | tuple[int, int] | None = None
    dtype: str | None = None

    def __post_init__(self):
        naming.check_known("pixels", [self.pixels], PIXELS)
        if self.dtype is not None:
            naming.check_known("dtype", [self.dtype], DTYPES)
        size = {"img_size": ranges.or_none(FIELD_RANGES["img_size"])}
        ranges.check({"img_size": self.img_size}, size)


@dataclasses.dataclass(frozen=True)
class Program:
    """A model as a function of its pictures.

    Attributes:
        module: the Flax module that it runs.
        params: its parameters, NumPy or JAX arrays.
        function: (params, pictures `(b, h, w, c)`) -> `(b, ...)`, in at least float32.
        img_size: height and width of the pictures.
        preprocessing: how pictures are prepared, one mean for each channel.
        pixels: see `Options`.
        what: what comes out: "logits", "pooled", "cls", "mean" or "tokens".
    """

    module: Any
    params: Mapping[str, Any]
    function: Callable[[Any, jax.Array], jax.Array]
    img_size: tuple[int, int]
    preprocessing: Preprocessing
    pixels: str
    what: str

    @property
    def dtype(self) -> str:
        """Of the computation."""
        return jnp.dtype(self.module.dtype or jnp.float32).name

    def pictures(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Shape and dtype of so many pictures; `batch` may be a symbol of `jax.export`."""
        dtype = jnp.uint8 if self.pixels == "uint8" else jnp.float32
        return jax.ShapeDtypeStruct((batch, *self.img_size, self.module.in_chans), dtype)

    def output(self, batch: Any = 1) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what comes out.

        Raises:
            UserError: the model does not take such pictures.
        """
        return jax.eval_shape(self.function, self.params, self.pictures(batch))


def build(model: Model, options: Options) -> Program:
    """Makes the program of a model.

    Raises:
        UserError: the model has no such features, or takes no pictures of such a size; or its
            parameters are float64 while JAX does not have it.
    """
    check_not_rounded(model.params)
    what = options.which or _what(model)
    if options.which is not None:
        model, function = with_features(model, options.which)
    else:
        model, function = seeing(model), _prediction
    size = pair(model.module.img_size if options.img_size is None else options.img_size)
    module = _portable(model.module, options.dtype, size)
    params = unstack_blocks(model.params) if model.module.scan else model.params
    preprocessing = model.preprocessing.for_channels(module.in_chans)

    def computed(params: Any, pictures: jax.Array) -> jax.Array:
        images = _normalized(pictures, preprocessing) if options.pixels == "uint8" else pictures
        found = function(module, {"params": params}, images)
        return found.astype(jnp.promote_types(found.dtype, jnp.float32))

    program = Program(module, params, computed, size, preprocessing, options.pixels, what)
    program.output()  # the model says what it does not take
    return program


def _what(model: Model) -> str:
    """What a model gives by itself."""
    module = model.module
    if isinstance(module, MaskedAutoencoder):
        return "tokens"
    if module.num_classes:
        return "logits"
    return "tokens" if getattr(module, "global_pool", "avg") == "none" else "pooled"


def _prediction(module: Any, variables: Any, images: jax.Array) -> jax.Array:
    return module.apply(variables, images)


def _portable(module: Any, dtype: str | None, size: tuple[int, int]) -> Any:
    """The module with what runs everywhere, for pictures of a size."""
    fields = {field.name for field in dataclasses.fields(module)}
    changes = {name: value for name, value in PORTABLE.items() if name in fields}
    if dtype is not None:
        changes["dtype"] = dtype
    if isinstance(module, VisionTransformer) and size != pair(module.img_size):
        changes["dynamic_img_size"] = True
    return module.clone(**changes)


def _normalized(pictures: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """What `vit_jax.preprocess` makes of pixels."""
    mean, std = (np.asarray(x, np.float32) for x in (preprocessing.mean, preprocessing.std))
    return (pictures.astype(jnp.float32) / 255 - mean) / std
