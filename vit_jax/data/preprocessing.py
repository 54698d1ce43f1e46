"""From one picture to what a model is fed, by the same transforms that evaluation runs.

The resizes and crops are those of torchvision, timm and Transformers on Pillow images, to the bit;
`vit_jax.models.Preprocessing` says which of them a model was made with.
"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vit_jax.data.decode import decode_pillow
from vit_jax.data.transforms import Resize, ResizeSmall, build_transform
from vit_jax.errors import MissingFileError, UserError

if TYPE_CHECKING:  # what reads pictures, in many worker processes, needs neither JAX nor Flax
    from vit_jax.models import Preprocessing

_TRANSFORMS = {
    "center": "resize_small({})|center_crop",
    "center_floor": "resize_small({})|center_crop('down')",
    "squash": "resize({})|center_crop",
}


def eval_transform(preprocessing: "Preprocessing") -> str:
    """The transform of a model's evaluation, such as "resize_small(0.9)|center_crop".

    Args:
      preprocessing: its `crop_mode` and `crop_pct` are used.

    Returns:
      A spec for `vit_jax.data.build_transform`.
    """
    return _TRANSFORMS[preprocessing.crop_mode].format(preprocessing.crop_pct)


def described(spec: str, usual: "Preprocessing") -> "Preprocessing | None":
    """The preprocessing that a transform of evaluation is; the inverse of `eval_transform`.

    Args:
      spec: such as "resize" or "resize_small(0.875)|center_crop".
      usual: has the other choices: mean, std, interpolation.

    Returns:
      `usual` with the spec's `crop_mode` and `crop_pct`; None for a transform that no choice of
      these is.

    Raises:
      UserError: the spec does not parse.
    """
    found = build_transform(spec, 1).operations
    shares = [x.crop_pct for x in found if isinstance(x, Resize | ResizeSmall)]
    if len(shares) != 1:
        return None
    for mode, pattern in _TRANSFORMS.items():
        same = build_transform(pattern.format(shares[0]), 1).operations
        # Nothing is left to crop of what was resized to the target's size.
        if found == same or found == (Resize(1.0),) == same[:1]:
            return dataclasses.replace(usual, crop_mode=mode, crop_pct=shares[0])
    return None


def preprocess(
    picture: str | os.PathLike | bytes | Image.Image | np.ndarray,
    preprocessing: "Preprocessing",
    size: int | tuple[int, int],
) -> np.ndarray:
    """Decodes, resizes, crops and normalises one picture, as evaluation does.

        model = vit_jax.create_model(name)
        image = vit_jax.preprocess("cat.jpg", vit_jax.preprocessing(name), model.img_size)
        logits = model.apply(variables, image[None])

    Args:
      picture: the path of a file, an encoded file's bytes, a Pillow image, or uint8 pixels
        (h, w, 1, 3 or 4). The rules of decoding are those of `vit_jax.data.decode`: EXIF
        orientation is applied, to a Pillow image that still carries it as well.
      preprocessing: of the model, see `vit_jax.preprocessing`.
      size: of the result in pixels: (height, width), or one number for a square. The model's
        `img_size`.

    Returns:
      float32 (height, width, 3): (x / 255 - mean) / std. As many channels as there are means.

    Raises:
      DecodeError: it cannot be decoded.
      MissingFileError: no file of that path.
      UserError: the picture is none of these, or the size or preprocessing is out of range.
    """
    mean, std = (np.asarray(x, np.float32) for x in (preprocessing.mean, preprocessing.std))
    return (cropped(picture, preprocessing, size).astype(np.float32) / 255 - mean) / std


def cropped(
    picture: str | os.PathLike | bytes | Image.Image | np.ndarray,
    preprocessing: "Preprocessing",
    size: int | tuple[int, int],
) -> np.ndarray:
    """Decodes, resizes and crops one picture, as evaluation does: uint8 (height, width, 3).

    Of it `preprocess` is the normalised form; see there.
    """
    channels = len(preprocessing.mean)
    spec, interpolation = eval_transform(preprocessing), preprocessing.interpolation
    transform = build_transform(spec, size, channels, interpolation)
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "the picture"
    # Nothing in these transforms is random.
    return transform(_read(picture, channels), np.random.default_rng(0), name)


def _read(
    picture: str | os.PathLike | bytes | Image.Image | np.ndarray, channels: int
) -> bytes | np.ndarray:
    """What a `Transform` takes: an encoded file or pixels."""
    if isinstance(picture, bytes | np.ndarray):
        return picture
    if isinstance(picture, Image.Image):
        return decode_pillow(picture, channels, "the picture")
    if isinstance(picture, str | os.PathLike):
        if not Path(picture).is_file():
            raise MissingFileError(f"no picture at {os.fspath(picture)}: expected a file")
        return Path(picture).read_bytes()
    raise UserError(
        f"the picture is {type(picture).__name__}: expected a path, bytes, a Pillow image or a "
        "uint8 array (height, width, channels)"
    )
