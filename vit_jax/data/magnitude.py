"""Changes by name with a magnitude from 0 to 10: what AutoAugment and RandAugment choose from.

Names, what a magnitude means for each, and the noise on magnitudes are those of timm
(`timm.data.auto_augment`), which has most of them from the TPU EfficientNet code. With `magnitude`
M, level L = M / 10:

| name | argument |
|---|---|
| Rotate | 30 L degrees, either way |
| ShearX, ShearY | 0.3 L, either way |
| TranslateXRel, TranslateYRel | 0.45 L of the side, either way |
| Color, Contrast, Brightness, Sharpness | factor 0.1 + 1.8 L: 1 (M = 5) changes nothing |
| the same with Increasing | factor 1 + 0.9 L or 1 - 0.9 L, at least 0.1 |
| Posterize | keep 4 L bits, rounded down: 0 is black |
| PosterizeIncreasing | keep 4 minus that |
| PosterizeOriginal | keep 4 plus that |
| Solarize | invert from 256 L on |
| SolarizeIncreasing | invert from 256 - 256 L on |
| SolarizeAdd | add 110 L to dark values, at most 128 |
| AutoContrast, Equalize, Invert | none |
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from vit_jax.data import color, geometry
from vit_jax.data.geometry import Sampling

HIGHEST = 10  # the magnitude of level 1
UNIFORM = 100  # a standard deviation above it stands for magnitudes uniform from 0 to the given one

Argument = Callable[[float, np.random.Generator], float]  # from a level and randomness


def _either_way(largest: float) -> Argument:
    return lambda level, rng: _signed(level * largest, rng)


def _signed(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() > 0.5 else value


def _factor(level: float, rng: np.random.Generator) -> float:
    del rng
    return level * 1.8 + 0.1


def _factor_increasing(level: float, rng: np.random.Generator) -> float:
    return max(0.1, 1.0 + _signed(level * 0.9, rng))


def _bits(level: float, rng: np.random.Generator) -> int:
    del rng
    return int(level * 4)


def _threshold(level: float, rng: np.random.Generator) -> int:
    del rng
    return min(256, int(level * 256))


PLAIN = {
    "AutoContrast": color.auto_contrast,
    "Equalize": color.equalize,
    "Invert": color.invert,
}
COLOR = {
    "Posterize": (color.posterize, _bits),
    "PosterizeIncreasing": (color.posterize, lambda level, rng: 4 - _bits(level, rng)),
    "PosterizeOriginal": (color.posterize, lambda level, rng: 4 + _bits(level, rng)),
    "Solarize": (color.solarize, _threshold),
    "SolarizeIncreasing": (color.solarize, lambda level, rng: 256 - _threshold(level, rng)),
    "SolarizeAdd": (color.solarize_add, lambda level, rng: min(128, int(level * 110))),
    "Color": (color.saturation, _factor),
    "ColorIncreasing": (color.saturation, _factor_increasing),
    "Contrast": (color.contrast, _factor),
    "ContrastIncreasing": (color.contrast, _factor_increasing),
    "Brightness": (color.brightness, _factor),
    "BrightnessIncreasing": (color.brightness, _factor_increasing),
    "Sharpness": (color.sharpness, _factor),
    "SharpnessIncreasing": (color.sharpness, _factor_increasing),
}
GEOMETRY = {
    "Rotate": (geometry.rotate, _either_way(30.0)),
    "ShearX": (geometry.shear_x, _either_way(0.3)),
    "ShearY": (geometry.shear_y, _either_way(0.3)),
    "TranslateXRel": (geometry.translate_x, _either_way(0.45)),
    "TranslateYRel": (geometry.translate_y, _either_way(0.45)),
}


@dataclasses.dataclass(frozen=True)
class Change:
    """One change, made now and then and with a magnitude that may vary.

    Attributes:
      name: in the module's table.
      p: how often.
      magnitude: 0 to `limit`.
      mstd: standard deviation of the normal noise on the magnitude, which is then clipped to 0 to
        `limit`; above `UNIFORM`: uniform from 0 to `magnitude` instead.
      limit: largest magnitude.
    """

    name: str
    p: float
    magnitude: float
    mstd: float = 0.0
    limit: float = HIGHEST

    def __call__(self, image: Image.Image, rng: np.random.Generator, how: Sampling) -> Image.Image:
        """Returns the image, changed or not."""
        if self.p < 1 and rng.random() > self.p:
            return image
        return self.change(image, self.draw_magnitude(rng), rng, how)

    def draw_magnitude(self, rng: np.random.Generator) -> float:
        """Returns the magnitude of one use."""
        magnitude = self.magnitude
        if self.mstd > UNIFORM:
            magnitude = magnitude * rng.random()
        elif self.mstd > 0:
            magnitude = rng.normal(magnitude, self.mstd)
        return max(0.0, min(magnitude, self.limit))

    def change(
        self, image: Image.Image, magnitude: float, rng: np.random.Generator, how: Sampling
    ) -> Image.Image:
        """Returns the image changed by a magnitude, in a random direction where there are two."""
        if self.name in PLAIN:
            return PLAIN[self.name](image)
        level = magnitude / HIGHEST
        if self.name in COLOR:
            function, argument = COLOR[self.name]
            return function(image, argument(level, rng))
        function, argument = GEOMETRY[self.name]
        return function(image, argument(level, rng), how)
