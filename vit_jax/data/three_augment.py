"""3-Augment: solarise, make grey or blur, one of the three.

Touvron et al. 2022, "DeiT III: Revenge of the ViT", section 3.2 ("Data augmentation"). Its recipes
go on with colour jitter: `three_augment | color_jitter(0.3, 0.3, 0.3)`.
"""

import dataclasses

import numpy as np

from vit_jax.data.color import blur, saturation, solarize, without_alpha
from vit_jax.data.transforms import Picture, Target, between, operation

THRESHOLD = 128  # values from here on are inverted
RADIUS = (0.1, 2.0)  # of the blur in pixels, uniform


@operation("three_augment")
@dataclasses.dataclass(frozen=True)
class ThreeAugment:
    """Solarised, grey or blurred, each equally often; a grey picture is not changed by grey."""

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the changed picture, of the same size; UserError where it has alpha."""
        del target
        image = without_alpha(picture, "three_augment")
        choice = rng.integers(3)
        if choice == 0:
            return solarize(image, THRESHOLD)
        if choice == 1:
            return saturation(image, 0.0)
        return blur(image, between(*RADIUS, rng.random()))
