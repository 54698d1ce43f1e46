"""RandAugment: a few random changes of a picture, all of one magnitude.

Cubuk et al. 2019, "RandAugment: Practical automated data augmentation with a reduced search space";
in timm's version, which is the one of DeiT's, Swin's and MAE's recipes: each chosen change is made
with a probability of its own, the magnitude may vary by `mstd`, and with `inc1` all changes grow
with the magnitude.
"""

import dataclasses
import functools
import re

import numpy as np

from vit_jax.data.color import without_alpha
from vit_jax.data.geometry import Fill, check_fill, sampling
from vit_jax.data.magnitude import HIGHEST, Change
from vit_jax.data.transforms import Picture, Target, operation
from vit_jax.errors import UserError
from vit_jax.naming import unknown

CHANGES = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
# With inc1 these stand in for those above: at magnitude 0 they change nothing.
INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the letters of a configuration mean, and timm's defaults.

    Attributes:
      m: magnitude.
      n: how many changes are chosen for a picture, with replacement.
      p: how often a chosen change is made.
      mstd: standard deviation of the noise on the magnitude; above 100: magnitudes are uniform
        from 0 to m.
      mmax: largest magnitude.
      inc: 1 to use changes that grow with the magnitude.
    """

    m: int = HIGHEST
    n: int = 2
    p: float = 0.5
    mstd: float = 0.0
    mmax: int = HIGHEST
    inc: int = 0

    def __post_init__(self):
        if self.m > self.mmax:
            raise UserError(f"m is {self.m}: expected 0 to {self.mmax}, or a larger mmax with it")
        if self.n < 1 or self.mmax < 1:
            raise UserError(f"n is {self.n} and mmax {self.mmax}: expected 1 or more")
        if self.p > 1:
            raise UserError(f"p is {self.p}: expected a probability")
        if self.inc not in (0, 1):
            raise UserError(f"inc is {self.inc}: expected 0 or 1")


@functools.cache
def settings(config: str) -> Settings:
    """Reads a configuration such as "m9-n2-mstd0.5-inc1"; timm's leading "rand-" may be there.

    Raises:
      UserError: a part is not a known letter and a number in its range.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(Settings)}
    given = {}
    for part in config.removeprefix("rand-").split("-"):
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        if match is None:
            raise UserError(
                f"rand_augment {config!r}: {part!r} is not a name and a number, such as 'm9'"
            )
        name, value = match.groups()
        if name not in kinds:
            raise UserError(f"rand_augment {config!r}: {unknown('setting', name, kinds)}")
        if name in given:
            raise UserError(f"rand_augment {config!r}: {name} is given twice")
        if kinds[name] is int and "." in value:
            raise UserError(f"rand_augment {config!r}: {name} is {value}: expected a whole number")
        given[name] = kinds[name](value)
    return Settings(**given)


@functools.cache
def changes(config: str) -> tuple[Change, ...]:
    """Returns what a configuration chooses from."""
    s = settings(config)
    grow = INCREASING if s.inc else ()
    names = [f"{name}Increasing" if name in grow else name for name in CHANGES]
    return tuple(Change(name, s.p, s.m, s.mstd, s.mmax) for name in names)


@operation("rand_augment")
@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Random changes of one magnitude, see the module.

    Attributes:
      config: timm's, such as "m9-mstd0.5-inc1", see `Settings`.
      fill: of what a rotation or shift uncovers: 0 to 255, one value or three. timm's recipes have
        the mean colour, (124, 116, 104) for ImageNet.
    """

    config: str
    fill: Fill = 128

    def __post_init__(self):
        if not isinstance(self.config, str):
            raise UserError(f"config is {self.config!r}: expected text such as 'm9-mstd0.5-inc1'")
        settings(self.config)
        check_fill(self.fill)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the changed picture, of the same size; UserError where it has alpha."""
        image = without_alpha(picture, "rand_augment")
        how = sampling(image, self.fill, target)
        choice = changes(self.config)
        for number in rng.integers(len(choice), size=settings(self.config).n):
            image = choice[number](image, rng, how)
        return image
