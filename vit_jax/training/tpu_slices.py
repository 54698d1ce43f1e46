"""Names of TPUs: "v5e:16x16" is a slice of 16 x 16 chips of kind v5e, "2xv5e:16x16" two of them.

Chips of a slice exchange over links of their own, slices over the data centre's network.
"""

import math
import re
from typing import NamedTuple

from vit_jax import naming, ranges
from vit_jax.errors import UserError

EXAMPLES = "such as v5e:16x16 or v5p:4x4x4, and 2xv5e:16x16 for two slices"
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
# Usual sizes of slices, in chips. Source: cloud.google.com/tpu/docs/{v2,...,tpu7x}.
TOPOLOGIES = {
    "v2": ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v3": ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
    "v4": _DEEP,
    "v5e": _FLAT,
    "v5p": _DEEP,
    "v6e": _FLAT,
    "tpu7x": _DEEP,
}
# Chips of the largest pod, of which a slice is a part. Source: the same pages, "TPU Pod size".
PODS = {
    **{"v2": 256, "v3": 1024, "v4": 4096},
    **{"v5e": 256, "v5p": 8960, "v6e": 256, "tpu7x": 9216},
}
_COUNT = re.compile(r"([1-9]\d*)x(?=[a-z])")


class Slices(NamedTuple):
    """One TPU slice or several.

    Attributes:
      count: number of slices.
      kind: one of `TOPOLOGIES`.
      sides: chips along each side of a slice.
    """

    count: int
    kind: str
    sides: tuple[int, ...]

    @property
    def one(self) -> str:
        """The name of one of the slices."""
        return f"{self.kind}:{'x'.join(map(str, self.sides))}"


def parse(name: str) -> Slices:
    """Reads a name.

    Args:
      name: [Nx]KIND:SIDES.

    Raises:
      UserError: the kind is unknown, it is not the name of a TPU, or there is no such slice: chips
        of a kind are linked in two or in three dimensions, up to so many.
    """
    several = _COUNT.match(name)
    kind, _, shape = (name[several.end() :] if several else name).partition(":")
    if kind not in TOPOLOGIES:
        raise UserError(f"topology {name!r}: {naming.unknown('TPU', kind, TOPOLOGIES)}")
    usual = f"usual ones of {kind} are {', '.join(TOPOLOGIES[kind])}"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        raise UserError(f"topology {name!r}: expected KIND:SIDES, {EXAMPLES}; {usual}")
    sides = tuple(map(int, shape.split("x")))
    dimensions = TOPOLOGIES[kind][0].count("x") + 1
    if len(sides) != dimensions:
        raise UserError(f"topology {name!r}: a slice of {kind} has {dimensions} sides; {usual}")
    if math.prod(sides) > PODS[kind]:
        raise UserError(
            f"topology {name!r}: {math.prod(sides):,} chips, and the largest pod of {kind} has "
            f"{PODS[kind]:,}; {usual}"
        )
    return Slices(int(several[1]) if several else 1, kind, sides)


def _is_name(x: object) -> bool:
    try:
        return isinstance(x, str) and bool(parse(x))
    except UserError:
        return False


NAME = ranges.Range(f"a TPU ({', '.join(TOPOLOGIES)}), {EXAMPLES}", _is_name)
