"""Mixup and CutMix: each picture is mixed with another of the batch, and so are their labels.

Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", eq. 1, with lambda ~ Beta(a, a):

    picture = lambda x_i + (1 - lambda) x_j        label = lambda y_i + (1 - lambda) y_j

Yun et al. 2019, "CutMix", eq. 1 and 2: in place of the sum, a box of x_j with the area 1 - lambda
lies over x_i; where the border cuts the box, lambda is what remains of x_i. Which of the two is
done, how often, and the law of the box are those of timm's `Mixup`.

It happens on the devices, on normalised images, within the step; a draw is a function of the key,
hence of (seed, step). The partner of row i is a function of i and the number of rows alone, so it
is the same on any mesh: within groups of eight rows, row i mixes with row i + 4 and row i + 4 with
row i. timm has the last row mix with the first, which would send every picture to another device;
here nothing leaves a device whose rows are whole groups. (A distance of four, not one: repeated
augmentation puts the copies of a picture side by side, three of them in DeiT.)
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.objectives import losses
from vit_jax.objectives.base import Batch
from vit_jax.objectives.beta import symmetric_beta

Mode = Literal["batch", "pair", "elem"]
GROUP = 8  # rows; a number of rows that this does not divide has smaller groups

RANGES: dict[str, ranges.Range] = {
    "mixup_alpha": ranges.NOT_NEGATIVE,
    "cutmix_alpha": ranges.NOT_NEGATIVE,
    "cutmix_minmax": ranges.or_none(
        ranges.several(ranges.number("above 0 and at most 1", lambda x: 0 < x <= 1), 2)
    ),
    "mixup_prob": ranges.FRACTION,
    "mixup_switch_prob": ranges.FRACTION,
    "mixup_mode": ranges.one_of(("batch", "pair", "elem")),
    "mixup_correct_lam": ranges.TRUE_OR_FALSE,
}


@struct.dataclass
class Draw:
    """What happens to each row of a batch; arrays of shape (b,).

    Attributes:
      share: of its own label, lambda.
      weight: of its own pixels, outside the box.
      top: first row of the box that shows the partner.
      bottom: first row below it; equal to `top` where there is no box.
      left: first column of the box.
      right: first column beyond it.
    """

    share: jax.Array
    weight: jax.Array
    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mixup, CutMix, or one of the two at random. Names, laws and defaults are timm's.

    Attributes:
      mixup_alpha: of mixup's Beta distribution; 0: no mixup.
      cutmix_alpha: of CutMix's; 0: no CutMix, unless `cutmix_minmax` is given.
      cutmix_minmax: smallest and largest side of the box, as a fraction of the picture's; then
        both sides are uniform and `cutmix_alpha` is of no effect.
      mixup_prob: how often anything is mixed.
      mixup_switch_prob: how often CutMix, where both are on.
      mixup_mode: what shares one draw: the "batch", a "pair" of rows that are each other's
        partners, or nothing ("elem": each row has its own).
      mixup_correct_lam: lambda is what the box, cut by the border, leaves of the picture.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: Mode = "batch"
    mixup_correct_lam: bool = True

    def __post_init__(self):
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        ranges.check(options, RANGES, "objective.")
        if self.cutmix_minmax is not None and self.cutmix_minmax[0] >= self.cutmix_minmax[1]:
            raise UserError(
                f"objective.cutmix_minmax is {self.cutmix_minmax!r}; expected the smaller first"
            )

    @property
    def active(self) -> bool:
        """Whether anything is ever mixed."""
        return bool(self.mixup_alpha or self._cuts) and self.mixup_prob > 0

    @property
    def _cuts(self) -> bool:
        return self.cutmix_alpha > 0 or self.cutmix_minmax is not None

    def __call__(self, batch: Batch, num_classes: int, key: jax.Array) -> Batch:
        """Returns the batch with "image" mixed and "label" a distribution over the classes.

        Args:
          batch: "image" (b, h, w, c), "label" (b,) integers or (b, classes) floats.
          num_classes: of the labels.
          key: of this step.

        Raises:
          UserError: the number of rows is odd; or a picture is too small for `cutmix_minmax`.
        """
        if not self.active:
            return batch
        image = batch["image"]
        dtype = jnp.promote_types(image.dtype, jnp.float32)
        draw = self.draw(key, image.shape[0], image.shape[1:3], dtype)
        target = losses.distribution(batch["label"], (image.shape[0], num_classes), dtype)
        return {**batch, "image": mixed_images(image, draw), "label": mixed_labels(target, draw)}

    def draw(
        self, key: jax.Array, rows: int, size: tuple[int, int], dtype: jnp.dtype = jnp.float32
    ) -> Draw:
        """Returns what happens to each of `rows` pictures of `size` (height, width).

        Raises:
          UserError: see `__call__`.
        """
        half = _half_group(rows)
        count = {"batch": 1, "pair": rows // 2, "elem": rows}[self.mixup_mode]
        on, switch, beta, box = jax.random.split(key, 4)
        mixes = jax.random.uniform(on, (count,)) < self.mixup_prob
        cuts = mixes & (jax.random.uniform(switch, (count,)) < self._cut_probability)
        alphas = self.cutmix_alpha or 1.0, self.mixup_alpha or 1.0
        share = symmetric_beta(beta, jnp.where(cuts, *alphas).astype(dtype), max(alphas))
        weight = jnp.where(mixes & ~cuts, share, 1)
        sides = self._boxes(box, share, size)
        top, bottom, left, right = (jnp.where(cuts, side, 0) for side in sides)
        if self.mixup_correct_lam or self.cutmix_minmax is not None:
            share = 1 - (bottom - top) * (right - left) / jnp.asarray(math.prod(size), dtype)
        draw = Draw(jnp.where(cuts, share, weight), weight, top, bottom, left, right)
        return jax.tree.map(lambda x: _for_rows(x, rows, half), draw)

    @property
    def _cut_probability(self) -> float:
        if self._cuts and self.mixup_alpha > 0:
            return self.mixup_switch_prob
        return float(self._cuts)

    def _boxes(
        self, key: jax.Array, share: jax.Array, size: tuple[int, int]
    ) -> tuple[jax.Array, ...]:
        """Top, bottom, left and right of one box for each entry of `share`."""
        draw = _cut_sides if self.cutmix_minmax is None else _whole_sides
        argument = share if self.cutmix_minmax is None else self.cutmix_minmax
        keys = jax.random.split(key)
        sides = (draw(k, argument, length, share.shape) for k, length in zip(keys, size))
        return tuple(end for side in sides for end in side)


NO_MIXING = Mixing()


def _cut_sides(
    key: jax.Array, share: jax.Array, length: int, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """First and last + 1 pixel of a box of sqrt(1 - share) of a side, its centre anywhere."""
    return box_around(jax.random.randint(key, shape, 0, length), share, length)


def box_around(centre: jax.Array, share: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """First and last + 1 pixel of a box's side around `centre`, cut where the picture ends.

    Args:
      centre: in pixels.
      share: lambda; the side is sqrt(1 - lambda) of the picture's, rounded down (timm).
      length: of the picture's side.
    """
    cut = (length * jnp.sqrt(1 - share)).astype(jnp.int32)
    return jnp.clip(centre - cut // 2, 0, length), jnp.clip(centre + (cut + 1) // 2, 0, length)


def _whole_sides(
    key: jax.Array, minmax: tuple[float, float], length: int, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """First and last + 1 pixel of a box within the picture, of a side between two fractions."""
    least, limit = (int(length * fraction) for fraction in minmax)
    if least >= limit:
        raise UserError(
            f"objective.cutmix_minmax {tuple(minmax)} leaves no box on a side of {length} pixels: "
            f"it gives at least {least} and fewer than {limit} pixels"
        )
    of_side, of_place = jax.random.split(key)
    side = jax.random.randint(of_side, shape, least, limit)
    first = jax.random.randint(of_place, shape, 0, length - side + 1)
    return first, first + side


def _half_group(rows: int) -> int:
    """How far a row's partner is.

    Raises:
      UserError: the number of rows is odd.
    """
    if rows % 2:
        raise UserError(
            f"mixup and CutMix mix rows two by two, the batch has {rows}; make data.batch_size, "
            "divided by accumulate_steps, an even number"
        )
    return math.gcd(rows, GROUP) // 2


def _for_rows(x: jax.Array, rows: int, half: int) -> jax.Array:
    """(1,), (rows / 2,) or (rows,) draws as (rows,): of all, of both rows of a pair, of each."""
    if x.shape[0] == rows // 2 and rows != 2:
        x = x.reshape(-1, 1, half)
        x = jnp.broadcast_to(x, (x.shape[0], 2, half))
    return jnp.broadcast_to(x.reshape(-1), (rows,))


def partner_of(x: jax.Array) -> jax.Array:
    """Returns `x` (b, ...) with the rows of each pair exchanged."""
    half = _half_group(x.shape[0])
    return x.reshape(-1, 2, half, *x.shape[1:])[:, ::-1].reshape(x.shape)


def mixed_images(image: jax.Array, draw: Draw) -> jax.Array:
    """Returns images (b, h, w, c), each mixed with its partner's.

    A pixel that is not mixed keeps its bits.
    """
    row = jnp.arange(image.shape[1])[:, None, None]
    column = jnp.arange(image.shape[2])[:, None]
    top, bottom, left, right, weight = (
        x[:, None, None, None] for x in (draw.top, draw.bottom, draw.left, draw.right, draw.weight)
    )
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    other = partner_of(image)
    weight = weight.astype(image.dtype)
    blend = jnp.where(weight == 1, image, weight * image + (1 - weight) * other)
    return jnp.where(inside, other, blend)


def mixed_labels(target: jax.Array, draw: Draw) -> jax.Array:
    """Returns distributions over the classes (b, classes), each mixed with its partner's."""
    share = draw.share[:, None]
    return share * target + (1 - share) * partner_of(target)
