"""Random rotation, shift, scale and shear in one step: torchvision's `RandomAffine`.

The centre is that of the picture; the size stays and what is uncovered is filled.
"""

import dataclasses
import math

import numpy as np

from vit_jax.data.color import without_alpha
from vit_jax.data.geometry import Fill, affine, check_fill, sampling
from vit_jax.data.transforms import (
    Picture,
    Target,
    between,
    check_range,
    is_number,
    operation,
)
from vit_jax.errors import UserError


@operation("random_affine")
@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """A random affine map; all draws are uniform.

    Attributes:
      degrees: largest rotation, either way, 0 to 180.
      translate: largest shift, either way, as fractions of width and height.
      scale: smallest and largest.
      shear: largest angle in degrees, either way, less than 90; along the rows.
      fill: of what is uncovered: 0 to 255, one value or three.
    """

    degrees: float
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    fill: Fill = 0

    def __post_init__(self):
        if not is_number(self.degrees, 0, 180):
            raise UserError(f"degrees is {self.degrees!r}: expected a number from 0 to 180")
        is_pair = isinstance(self.translate, tuple | list) and len(self.translate) == 2
        if not is_pair or not all(is_number(x, 0, 1) for x in self.translate):
            raise UserError(f"translate is {self.translate!r}: expected two numbers from 0 to 1")
        check_range("scale", self.scale, 0.01, 100)
        if not is_number(self.shear, 0, 89):
            raise UserError(f"shear is {self.shear!r}: expected a number from 0 to 89")
        check_fill(self.fill)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the changed picture, of the same size; UserError where it has alpha."""
        image = without_alpha(picture, "random_affine")
        how = sampling(image, self.fill, target)
        return affine(image, inverse(image.size, *self.choose(image.size, rng)), how)

    def choose(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[float, tuple[int, int], float, float]:
        """Returns rotation in degrees, shift (x, y) in whole pixels, scale, shear in degrees.

        Args:
          size: of the picture, (width, height).
          rng: the source of randomness.
        """
        rotation = between(-self.degrees, self.degrees, rng.random())
        largest = [part * side for part, side in zip(self.translate, size)]
        shift = tuple(round(between(-most, most, rng.random())) for most in largest)
        scale = between(*self.scale, rng.random())
        return rotation, shift, scale, between(-self.shear, self.shear, rng.random())


def inverse(
    size: tuple[int, int], rotation: float, shift: tuple[int, int], scale: float, shear: float
) -> tuple[float, ...]:
    """Returns from where in a picture each pixel comes, as `vit_jax.data.geometry.affine` has it.

    The map shears, scales and turns (with the clock) about the middle, then shifts. Its matrix
    without scale has determinant 1, so that the inverse needs no division by it.
    """
    turn, lean = math.radians(rotation), math.tan(math.radians(shear))
    a, b = math.cos(turn), -math.cos(turn) * lean - math.sin(turn)
    c, d = math.sin(turn), -math.sin(turn) * lean + math.cos(turn)
    xx, xy, yx, yy = d / scale, -b / scale, -c / scale, a / scale
    middle_x, middle_y = size[0] * 0.5, size[1] * 0.5
    from_x, from_y = -middle_x - shift[0], -middle_y - shift[1]
    x = xx * from_x + xy * from_y + middle_x
    y = yx * from_x + yy * from_y + middle_y
    return xx, xy, x, yx, yy, y
