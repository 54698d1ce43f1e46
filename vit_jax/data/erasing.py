"""Random erasing: which rectangles of a picture the device is to erase, and how.

Zhong et al. 2017, "Random Erasing Data Augmentation"; the law of the rectangles is that of timm's
`RandomErasing`. What a rectangle is filled with is normal noise of mean 0 and variance 1, on
pixels that are already normalised. 8-bit pixels have no place for such values: noise brought to
their scale would be cut off at black and white. So the picture stays whole here, and the batch
carries the rectangles, with a seed for the noise, to `vit_jax.training.erase`, which fills them
after normalisation. Rectangle and noise are therefore functions of (seed, epoch, index), whatever
the batch size, the number of hosts and the mesh.
"""

import dataclasses
import math

import numpy as np

from vit_jax.data.transforms import (
    Target,
    between,
    check_probability,
    check_range,
    operation,
)
from vit_jax.errors import UserError
from vit_jax.naming import unknown

MODES = ("pixel", "rand", "const")  # `vit_jax.training.erase` has what they fill with
TRIES = 10  # to find a rectangle that lies within the picture


@operation("random_erasing")
@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Marks rectangles to be erased; the last operation of a transform.

    Attributes:
      p: how often.
      mode: what a rectangle shows. "pixel": noise for each pixel and channel; "rand": one colour,
        which is noise for each channel; "const": the mean colour, 0 once normalised.
      area: smallest and largest, all rectangles together, as a fraction of the picture's.
      ratio: smallest and largest height / width, uniform in its logarithm.
      count: largest number of rectangles; 1 to `count` are equally likely.
    """

    p: float = 0.5
    mode: str = "pixel"
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    count: int = 1

    def __post_init__(self):
        check_probability(self.p)
        if self.mode not in MODES:
            raise UserError(unknown("mode", str(self.mode), MODES))
        check_range("area", self.area, 1e-6, 1.0)
        check_range("ratio", self.ratio, 1e-3, 1e3)
        if not isinstance(self.count, int) or self.count < 1:
            raise UserError(f"count is {self.count!r}: expected a whole number, 1 or more")

    @property
    def field(self) -> str:
        """The name of the mark in the batch."""
        return f"erase_{self.mode}"

    @property
    def shape(self) -> tuple[int, int]:
        """Of the mark: (count, 5), see `mark`."""
        return self.count, 5

    def mark(self, rng: np.random.Generator, target: Target) -> np.ndarray:
        """Returns int32 (count, 5): top, left, height, width and seed of the noise, in pixels.

        Rectangles that are not there have zeros. One that lies over another hides it if it comes
        later.
        """
        mark = np.zeros(self.shape, np.int32)
        if rng.random() > self.p:
            return mark
        count = 1 if self.count == 1 else int(rng.integers(1, self.count + 1))
        for row in range(count):
            box = self._rectangle(rng, target.size, count)
            if box is not None:
                mark[row] = *box, rng.integers(2**31)
        return mark

    def _rectangle(
        self, rng: np.random.Generator, size: tuple[int, int], count: int
    ) -> tuple[int, int, int, int] | None:
        """Top, left, height, width; None where no try gave one smaller than the picture."""
        height, width = size
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(TRIES):
            area = between(*self.area, rng.random()) * height * width / count
            ratio = math.exp(between(*log_ratio, rng.random()))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top = int(rng.integers(0, height - h + 1))
                left = int(rng.integers(0, width - w + 1))
                return top, left, h, w
        return None
