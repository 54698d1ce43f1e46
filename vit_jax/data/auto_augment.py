"""AutoAugment: one of 25 learned pairs of changes.

Cubuk et al. 2018, "AutoAugment: Learning augmentation policies from data". The policies are timm's
(`timm.data.auto_augment`): "original" is that of the paper's appendix for ImageNet, "v0" that of
the TPU EfficientNet code, whose Posterize keeps fewer bits. In "originalr" and "v0r" Posterize
drops more bits for a larger magnitude, as in Google's research code.
"""

import dataclasses
import functools

import numpy as np

from vit_jax.data.color import without_alpha
from vit_jax.data.geometry import Fill, check_fill, sampling
from vit_jax.data.magnitude import Change
from vit_jax.data.transforms import Picture, Target, is_number, operation
from vit_jax.errors import UserError
from vit_jax.naming import unknown

# Two changes a line: name, how often, magnitude.
V0 = """
    Equalize 0.8 1       ShearY 0.8 4
    Color 0.4 9          Equalize 0.6 3
    Color 0.4 1          Rotate 0.6 8
    Solarize 0.8 3       Equalize 0.4 7
    Solarize 0.4 2       Solarize 0.6 2
    Color 0.2 0          Equalize 0.8 8
    Equalize 0.4 8       SolarizeAdd 0.8 3
    ShearX 0.2 9         Rotate 0.6 8
    Color 0.6 1          Equalize 1.0 2
    Invert 0.4 9         Rotate 0.6 0
    Equalize 1.0 9       ShearY 0.6 3
    Color 0.4 7          Equalize 0.6 0
    Posterize 0.4 6      AutoContrast 0.4 7
    Solarize 0.6 8       Color 0.6 9
    Solarize 0.2 4       Rotate 0.8 9
    Rotate 1.0 7         TranslateYRel 0.8 9
    ShearX 0.0 0         Solarize 0.8 4
    ShearY 0.8 0         Color 0.6 4
    Color 1.0 0          Rotate 0.6 2
    Equalize 0.8 4       Equalize 0.0 8
    Equalize 1.0 4       AutoContrast 0.6 2
    ShearY 0.4 7         SolarizeAdd 0.6 7
    Posterize 0.8 2      Solarize 0.6 10
    Solarize 0.6 8       Equalize 0.6 1
    Color 0.8 6          Rotate 0.4 5
"""
ORIGINAL = """
    PosterizeOriginal 0.4 8   Rotate 0.6 9
    Solarize 0.6 5            AutoContrast 0.6 5
    Equalize 0.8 8            Equalize 0.6 3
    PosterizeOriginal 0.6 7   PosterizeOriginal 0.6 6
    Equalize 0.4 7            Solarize 0.2 4
    Equalize 0.4 4            Rotate 0.8 8
    Solarize 0.6 3            Equalize 0.6 7
    PosterizeOriginal 0.8 5   Equalize 1.0 2
    Rotate 0.2 3              Solarize 0.6 8
    Equalize 0.6 8            PosterizeOriginal 0.4 6
    Rotate 0.8 8              Color 0.4 0
    Rotate 0.4 9              Equalize 0.6 2
    Equalize 0.0 7            Equalize 0.8 8
    Invert 0.6 4              Equalize 1.0 8
    Color 0.6 4               Contrast 1.0 8
    Rotate 0.8 8              Color 1.0 2
    Color 0.8 8               Solarize 0.8 7
    Sharpness 0.4 7           Invert 0.6 8
    ShearX 0.6 5              Equalize 1.0 9
    Color 0.4 0               Equalize 0.6 3
    Equalize 0.4 7            Solarize 0.2 4
    Solarize 0.6 5            AutoContrast 0.6 5
    Invert 0.6 4              Equalize 1.0 8
    Color 0.6 4               Contrast 1.0 8
    Equalize 0.8 8            Equalize 0.6 3
"""
POLICIES = {
    "original": ORIGINAL,
    "originalr": ORIGINAL.replace("PosterizeOriginal", "PosterizeIncreasing"),
    "v0": V0,
    "v0r": V0.replace("Posterize", "PosterizeIncreasing"),
}


@functools.cache
def pairs(policy: str, mstd: float) -> tuple[tuple[Change, Change], ...]:
    """Returns the 25 pairs of a policy, with noise on the magnitudes."""
    rows = [line.split() for line in POLICIES[policy].strip().splitlines()]
    return tuple(
        (
            Change(a, float(p), float(m), mstd),
            Change(b, float(q), float(k), mstd),
        )
        for a, p, m, b, q, k in rows
    )


@operation("auto_augment")
@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of the pairs of a policy, each equally likely.

    Attributes:
      policy: one of `POLICIES`.
      mstd: standard deviation of noise on the magnitudes, as in timm's "original-mstd0.5".
      fill: of what a rotation or shift uncovers: 0 to 255, one value or three.
    """

    policy: str = "original"
    mstd: float = 0.0
    fill: Fill = 128

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(unknown("policy", str(self.policy), POLICIES))
        if not is_number(self.mstd, 0, 10):
            raise UserError(f"mstd is {self.mstd!r}: expected a number from 0 to 10")
        check_fill(self.fill)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the changed picture, of the same size; UserError where it has alpha."""
        image = without_alpha(picture, "auto_augment")
        how = sampling(image, self.fill, target)
        policy = pairs(self.policy, self.mstd)
        for change in policy[rng.integers(len(policy))]:
            image = change(image, rng, how)
        return image
