"""Shears, shifts and rotations of 8-bit pictures: Pillow's arithmetic, hence timm's.

The size stays; what is uncovered is filled. The functions take Pillow images of any mode.
"""

import dataclasses

from PIL import Image

from vit_jax.data.transforms import Target
from vit_jax.errors import UserError

USABLE = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

Fill = int | tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a moved picture gets its pixels; made by `sampling`.

    Attributes:
      interpolation: between the pixels, one of `USABLE`.
      fill: what is uncovered, as Pillow wants it for the image's mode.
    """

    interpolation: Image.Resampling
    fill: int | tuple[int, ...]


def check_fill(fill: Fill) -> None:
    """Raises UserError where `fill` is not a value from 0 to 255, or three of them."""
    values = fill if isinstance(fill, tuple | list) and len(fill) == 3 else (fill,)
    if not all(isinstance(v, int) and 0 <= v <= 255 for v in values):
        raise UserError(f"fill is {fill!r}: expected a whole number from 0 to 255, or three")


def sampling(image: Image.Image, fill: Fill, target: Target) -> Sampling:
    """Returns the `Sampling` of an image: with the target's interpolation.

    Raises:
      UserError: the interpolation is only for resizing, or `fill` has three values and the image
        another number of channels.
    """
    if target.interpolation not in USABLE:
        names = ", ".join(repr(r.name.lower()) for r in USABLE)
        raise UserError(
            f"interpolation {target.interpolation.name.lower()!r} cannot rotate or shear: "
            f"expected one of {names}"
        )
    channels = len(image.getbands())
    if isinstance(fill, int):
        return Sampling(target.interpolation, fill if channels == 1 else (fill,) * channels)
    if channels != len(fill):
        raise UserError(f"fill is {fill!r} and the picture has {channels} channel(s): give one")
    return Sampling(target.interpolation, tuple(fill))


def shear_x(image: Image.Image, factor: float, how: Sampling) -> Image.Image:
    """Moves row y by -factor * y pixels."""
    return affine(image, (1, factor, 0, 0, 1, 0), how)


def shear_y(image: Image.Image, factor: float, how: Sampling) -> Image.Image:
    """Moves column x by -factor * x pixels."""
    return affine(image, (1, 0, 0, factor, 1, 0), how)


def translate_x(image: Image.Image, fraction: float, how: Sampling) -> Image.Image:
    """Moves to the left by a fraction of the width."""
    return affine(image, (1, 0, fraction * image.width, 0, 1, 0), how)


def translate_y(image: Image.Image, fraction: float, how: Sampling) -> Image.Image:
    """Moves up by a fraction of the height."""
    return affine(image, (1, 0, 0, 0, 1, fraction * image.height), how)


def rotate(image: Image.Image, degrees: float, how: Sampling) -> Image.Image:
    """Turns around the middle, against the clock."""
    return image.rotate(degrees, how.interpolation, fillcolor=how.fill)


def affine(image: Image.Image, matrix: tuple[float, ...], how: Sampling) -> Image.Image:
    """Shows at (x, y) what was at (a x + b y + c, d x + e y + f); `matrix` is (a, b, c, d, e, f).

    Coordinates are those of the middles of pixels, as Pillow's.
    """
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, how.interpolation, fillcolor=how.fill
    )
