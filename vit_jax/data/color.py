"""Changes of colour and sharpness, and colour jitter: the arithmetic of Pillow.

torchvision and timm leave these to Pillow too, so that pixels are equal to theirs to the bit. The
functions take Pillow images of mode "L" (grey) or "RGB" and return new ones; "grey" is Pillow's
(299 r + 587 g + 114 b) / 1000. A factor of 0 is the far end of a change (black, a flat grey, no
colour, blurred), 1 no change, more than 1 the other direction.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vit_jax.data.transforms import (
    Picture,
    Target,
    as_image,
    between,
    check_range,
    is_number,
    operation,
)
from vit_jax.errors import UserError


def without_alpha(picture: Picture, name: str) -> Image.Image:
    """Returns a picture as a Pillow image of mode "L" or "RGB".

    Raises:
      UserError: it has an alpha channel, of which operation `name` would not know what to make.
    """
    image = as_image(picture)
    if image.mode not in ("L", "RGB"):
        raise UserError(
            f"{name} of a picture of {len(image.getbands())} channels: expected 1 (grey) or 3 (RGB)"
        )
    return image


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blends with black."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blends with a flat picture of the mean grey."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blends with the grey picture; grey pictures stay as they are."""
    return ImageEnhance.Color(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Blends with the picture smoothed over 3x3 pixels."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def hue(image: Image.Image, turn: float) -> Image.Image:
    """Turns the circle of colours by a fraction of it, -0.5 to 0.5; grey stays as it is."""
    if image.mode == "L":
        return image
    h, s, v = image.convert("HSV").split()
    turned = np.asarray(h) + np.uint8(int(turn * 255) % 256)  # 8 bits: wraps around
    return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")


def solarize(image: Image.Image, threshold: int) -> Image.Image:
    """Inverts the values that are at least `threshold`."""
    return ImageOps.solarize(image, threshold)


def solarize_add(image: Image.Image, amount: int) -> Image.Image:
    """Adds to the values below 128, up to white."""
    return _by_value(image, lambda v: min(255, v + amount) if v < 128 else v)


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keeps the highest bits of each value; none for `bits` of 0 or less, which is black.

    Pillow's own function does the same but, since version 13, refuses to keep no bits, to which
    the published policies go.
    """
    dropped = 8 - min(max(bits, 0), 8)
    return _by_value(image, lambda v: v >> dropped << dropped)


def auto_contrast(image: Image.Image) -> Image.Image:
    """Stretches each channel to 0 to 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image) -> Image.Image:
    """Makes the values of each channel equally frequent, as far as possible."""
    return ImageOps.equalize(image)


def invert(image: Image.Image) -> Image.Image:
    """The negative."""
    return ImageOps.invert(image)


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur (Pillow's: three box blurs); `radius` is the standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def _by_value(image: Image.Image, change: Callable[[int], int]) -> Image.Image:
    return image.point([change(value) for value in range(256)] * len(image.getbands()))


JITTERED = (brightness, contrast, saturation, hue)  # in the order of the fields


@operation("color_jitter")
@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random factors, in a random order.

    The law is that of torchvision's `ColorJitter`. Each field is a number or a pair: a number x
    stands for the factors from max(0, 1 - x) to 1 + x, for hue for the turns from -x to x; the
    factor is uniform between the two. What cannot change anything (0 and, as a pair, (1, 1); for
    hue (0, 0)) is left out.

    Attributes:
      brightness: largest change, 0 or more.
      contrast: largest change, 0 or more.
      saturation: largest change, 0 or more.
      hue: largest turn, 0 to 0.5 of the circle of colours.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0

    def __post_init__(self):
        for field in ("brightness", "contrast", "saturation"):
            _check_jitter(field, getattr(self, field), 0, 1000)
        _check_jitter("hue", self.hue, -0.5, 0.5)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the changed picture, of the same size; UserError where it has alpha."""
        del target
        image = without_alpha(picture, "color_jitter")
        for change, factor in self.choose(rng):
            image = change(image, factor)
        return image

    def choose(self, rng: np.random.Generator) -> list[tuple[Callable[..., Image.Image], float]]:
        """Returns which functions to call, in this order, each with its factor."""
        order = rng.permutation(len(JITTERED))
        values = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = {}
        for change, value in zip(JITTERED, values):
            unchanged = 0.0 if change is hue else 1.0
            low, high = _limits(value, unchanged)
            if not low == high == unchanged:
                factors[change] = between(low, high, rng.random())
        return [(JITTERED[i], factors[JITTERED[i]]) for i in order if JITTERED[i] in factors]


def _limits(value: float | tuple[float, float], unchanged: float) -> tuple[float, float]:
    if isinstance(value, tuple | list):
        return value[0], value[1]
    low = unchanged - value
    return (max(0.0, low) if unchanged else low), unchanged + value


def _check_jitter(name: str, value: float | tuple[float, float], low: float, high: float) -> None:
    if isinstance(value, tuple | list):
        check_range(name, value, low, high)
    elif not is_number(value, 0, high):
        raise UserError(f"{name} is {value!r}: expected a number from 0 to {high}, or a pair")
