"""What happens to a picture between its file and the batch, written as a short string.

`build_transform("inception_crop(scale=(0.2, 1.0)) | flip", size=(224, 224))` gives a function from
an encoded file (or a decoded array) and a random generator to uint8 (height, width, channels).
Operations run from left to right; their arguments are Python literals. A spec holds:

| operation | what it does |
|---|---|
| `inception_crop(scale, ratio, reduced)` | random area and aspect ratio, resized to the target |
| `random_crop` | a window of the target size, anywhere |
| `center_crop(rounding)` | a window of the target size, in the middle |
| `resize(crop_pct)` | to target / crop_pct, the aspect ratio is lost |
| `resize_small(crop_pct)` | smallest that covers target / crop_pct, the aspect ratio is kept |
| `resize_pad(mode, fill)` | largest that fits into the target, the rest is padded |
| `random_shift(k, mode, fill)` | moves by up to k pixels each way, what is uncovered is padded |
| `flip(p)` | left to right with probability p |
| `random_affine(degrees, translate, scale, shear, fill)` | turned, moved, scaled and sheared |
| `color_jitter(brightness, contrast, saturation, hue)` | random factors, in a random order |
| `rand_augment('m9-mstd0.5-inc1')` | RandAugment, with timm's parameters |
| `auto_augment('original')` | AutoAugment, with timm's policies |
| `three_augment` | grey, solarised or blurred: of DeiT III, before `color_jitter(0.3, 0.3, 0.3)` |
| `random_erasing(p, mode, area, ratio, count)` | marks rectangles, filled on the device |

Resizing is Pillow's, antialiased, on 8-bit pixels: the arithmetic behind torchvision and timm, and
equal to theirs to the bit. A transform has no state: the generator decides everything.

A new operation is a frozen dataclass with a method
`__call__(picture, rng, target) -> picture`, registered with `@operation("name")`. One that only
says what is to be done later, on the device (see `erasing`), has instead a method
`mark(rng, target) -> np.ndarray` and the `field` of the batch and the `shape` of that array.
"""

import ast
import dataclasses
import importlib
import inspect
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.decode import DecodeError, EncodedImage, convert, mode_of, to_array, to_image
from vit_jax.errors import UserError
from vit_jax.naming import unknown

# Operations take and give whichever of these costs least; the helpers below convert.
Picture = EncodedImage | Image.Image | np.ndarray

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
ROUNDINGS = {"even": round, "down": math.floor}
PAD_MODES = ("constant", "edge", "reflect")
OPERATIONS: dict[str, type] = {}

# Modules that register operations too; they import this one, so they are loaded for the first spec.
AUGMENTATIONS = (
    "vit_jax.data.affine",
    "vit_jax.data.auto_augment",
    "vit_jax.data.color",
    "vit_jax.data.erasing",
    "vit_jax.data.rand_augment",
    "vit_jax.data.three_augment",
)
# Python 3.11 may fail in two threads that parse at once (github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()


def operation(name: str) -> Callable[[type], type]:
    """Registers a class of operations under its name in specs."""

    def register(cls: type) -> type:
        OPERATIONS[name] = cls
        return cls

    return register


@dataclasses.dataclass(frozen=True)
class Target:
    """What every transform ends in: `size` is (height, width), `interpolation` Pillow's filter."""

    size: tuple[int, int]
    channels: int
    interpolation: Image.Resampling


@dataclasses.dataclass(frozen=True)
class Transform:
    """A parsed spec, ready to be called; made by `build_transform`.

    Attributes:
      spec: the string it was made from.
      target: size, channels and interpolation of the result.
      operations: run in this order.
      marks: operations after these, which leave the picture as it is.
    """

    spec: str
    target: Target
    operations: tuple[Callable[..., Picture], ...]
    marks: tuple[Any, ...] = ()

    def __call__(
        self, image: bytes | np.ndarray, rng: np.random.Generator, name: str = "image"
    ) -> np.ndarray:
        """Transforms one picture; `example` has the marks too.

        Args:
          image: an encoded file, or uint8 (h, w, c) pixels.
          rng: the only source of randomness.
          name: what to call the picture in an error.

        Returns:
          uint8 (height, width, channels) of the target.

        Raises:
          DecodeError: the file cannot be decoded.
          UserError: the operations do not end at the target's size, or do not suit the picture.
        """
        try:
            picture = self._open(image, name)
            for run in self.operations:
                picture = run(picture, rng, self.target)
            array = as_array(picture)
        except DecodeError:
            raise
        except ValueError as error:
            raise UserError(f"transform {self.spec!r} of {name}: {error}") from error
        if array.shape[:2] != self.target.size:
            raise UserError(
                f"transform {self.spec!r} made {name} {_by(array.shape)}, expected "
                f"{_by(self.target.size)}: end it with resize, inception_crop or "
                "resize_small|center_crop"
            )
        return array

    def example(
        self, image: bytes | np.ndarray, rng: np.random.Generator, name: str = "image"
    ) -> dict[str, np.ndarray]:
        """Returns "image", what a call returns, and every mark by the name of its field."""
        pixels = self(image, rng, name)
        return {"image": pixels} | {x.field: x.mark(rng, self.target) for x in self.marks}

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Returns zeros for `rows` examples: a black picture and nothing marked."""
        image = np.zeros((rows, *self.target.size, self.target.channels), np.uint8)
        marks = {x.field: np.zeros((rows, *x.shape), np.int32) for x in self.marks}
        return {"image": image, **marks}

    @property
    def starts_from_whole_picture(self) -> bool:
        """Whether decoding is independent of the random choices, so that its result can be kept."""
        return not any(getattr(first, "reduced", False) for first in self.operations[:1])

    def decode(self, data: bytes, name: str = "image") -> np.ndarray:
        """Returns the whole picture as uint8 (h, w, channels), before any operation."""
        return as_array(EncodedImage(data, self.target.channels, name))

    def _open(self, image: bytes | np.ndarray, name: str) -> EncodedImage | np.ndarray:
        if isinstance(image, bytes):
            return EncodedImage(image, self.target.channels, name)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
            raise UserError(
                f"it is {image.dtype}{list(image.shape)}, expected encoded bytes or "
                "uint8[height, width, 1, 3 or 4]"
            )
        if image.shape[2] == self.target.channels:
            return image
        return to_array(convert(to_image(image), mode_of(self.target.channels)))


def build_transform(
    spec: str,
    size: int | tuple[int, int],
    channels: int = 3,
    interpolation: str = "bicubic",
) -> Transform:
    """Parses a spec such as `"resize_small(crop_pct=0.9) | center_crop"`.

    Args:
      spec: operations joined by `|`, see the module's table.
      size: of the result, (height, width) or one number for a square.
      channels: of the result: 1, 3 or 4.
      interpolation: of every resize: one of `INTERPOLATIONS`.

    Returns:
      A `Transform`: `transform(image, rng) -> uint8 (height, width, channels)`.

    Raises:
      UserError: the spec does not parse, names an unknown operation or argument, or an argument
        is out of range.
    """
    mode_of(channels)  # raises for a number of channels that pictures do not have
    if interpolation not in INTERPOLATIONS:
        raise UserError(unknown("interpolation", str(interpolation), INTERPOLATIONS))
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UserError(f"size is {_by((height, width))}: expected at least 1x1")
    target = Target((height, width), channels, INTERPOLATIONS[interpolation])
    return Transform(spec, target, *_without_marks(spec, _parse(spec)))


def _without_marks(spec: str, operations: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns the operations on pixels and those that only mark, which come last."""
    marks = [x for x in operations if hasattr(x, "mark")]
    if marks != operations[len(operations) - len(marks) :]:
        raise UserError(
            f"transform {spec!r}: the operations after random_erasing would move what it marks: "
            "put it last"
        )
    if len({x.field for x in marks}) < len(marks):
        raise UserError(
            f"transform {spec!r} has random_erasing twice in the same mode: give it a count instead"
        )
    return tuple(operations[: len(operations) - len(marks)]), tuple(marks)


def _parse(spec: str) -> list[Callable[..., Picture]]:
    """Returns the operations of a spec. `a | b(1)` is a Python expression; nothing is evaluated."""
    for module in AUGMENTATIONS:
        importlib.import_module(module)
    try:
        with _PARSING:
            node = ast.parse(spec.strip(), mode="eval").body
    except SyntaxError as error:
        raise UserError(
            f"transform {spec!r} does not parse: {error.msg}; expected operations joined by '|', "
            "such as 'resize_small(crop_pct=0.875) | center_crop'"
        ) from error
    nodes = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        nodes.append(node.right)
        node = node.left
    return [_parse_operation(n, spec) for n in [node, *reversed(nodes)]]


def _parse_operation(node: ast.expr, spec: str) -> Callable[..., Picture]:
    name_node = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name_node, ast.Name):
        raise UserError(
            f"transform {spec!r}: {ast.unparse(node)!r} is not an operation such as 'flip' or "
            "'random_shift(1)'"
        )
    name = name_node.id
    if name not in OPERATIONS:
        raise UserError(f"transform {spec!r}: {unknown('operation', name, OPERATIONS)}")
    try:
        args = [ast.literal_eval(a) for a in getattr(node, "args", [])]
        options = {k.arg: ast.literal_eval(k.value) for k in getattr(node, "keywords", [])}
        inspect.signature(OPERATIONS[name]).bind(*args, **options)
        return OPERATIONS[name](*args, **options)
    except (TypeError, ValueError) as error:
        fields = ", ".join(
            str(p).split(":")[0] for p in inspect.signature(OPERATIONS[name]).parameters.values()
        )
        raise UserError(
            f"transform {spec!r}: {ast.unparse(node)}: {error}; {name} takes ({fields})"
        ) from error


# Helpers of operations.


def size_of(picture: Picture) -> tuple[int, int]:
    """Returns (height, width) in pixels."""
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    if isinstance(picture, EncodedImage):
        return picture.size
    return picture.height, picture.width


def as_image(picture: Picture) -> Image.Image:
    """Returns the whole picture as a Pillow image."""
    if isinstance(picture, EncodedImage):
        return picture.decode()
    return to_image(picture) if isinstance(picture, np.ndarray) else picture


def as_array(picture: Picture) -> np.ndarray:
    """Returns the whole picture as uint8 (h, w, c)."""
    return picture if isinstance(picture, np.ndarray) else to_array(as_image(picture))


def crop(picture: Picture, top: int, left: int, size: tuple[int, int]) -> Picture:
    """Cuts out a window that lies inside the picture; `size` is (height, width)."""
    height, width = size
    if isinstance(picture, np.ndarray):
        return picture[top : top + height, left : left + width]
    return as_image(picture).crop((left, top, left + width, top + height))


def resize(picture: Picture, size: tuple[int, int], interpolation: Image.Resampling) -> Picture:
    """Resizes to (height, width) with antialiasing; a picture of that size is left as it is."""
    if size_of(picture) == size:
        return picture
    return as_image(picture).resize((size[1], size[0]), interpolation)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def _check_room(picture: Picture, target: Target, name: str) -> tuple[int, int]:
    """Returns how many rows and columns are left over by a window of the target's size."""
    height, width = size_of(picture)
    spare = height - target.size[0], width - target.size[1]
    if min(spare) < 0:
        raise UserError(
            f"{name} of {_by(target.size)} from {height}x{width}: put resize_small, resize or "
            "resize_pad before it"
        )
    return spare


def between(low: float, high: float, fraction: float) -> float:
    """Returns the number that lies a fraction of the way from `low` to `high`."""
    return low + (high - low) * fraction


def is_number(value: float, low: float, high: float) -> bool:
    """Whether a value is a number from `low` to `high`."""
    return isinstance(value, int | float) and low <= value <= high


def check_probability(p: float) -> None:
    """Raises UserError where `p` is not a number from 0 to 1."""
    if not is_number(p, 0, 1):
        raise UserError(f"p is {p!r}: expected a probability")


def check_range(name: str, pair: tuple[float, float], low: float, high: float) -> None:
    """Raises UserError where `pair` is not two numbers a <= b from `low` to `high`."""
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if not is_pair or not all(is_number(x, low, high) for x in pair) or pair[0] > pair[1]:
        raise UserError(f"{name} is {pair!r}: expected two numbers a <= b from {low} to {high}")


def _check_crop_pct(crop_pct: float) -> None:
    if not is_number(crop_pct, 0.01, 1):
        raise UserError(f"crop_pct is {crop_pct!r}: expected a number from 0.01 to 1")


def _check_padding(mode: str, fill: int) -> None:
    if mode not in PAD_MODES:
        raise UserError(unknown("pad mode", str(mode), PAD_MODES))
    if not isinstance(fill, int) or not 0 <= fill <= 255:
        raise UserError(f"fill is {fill!r}: expected a whole number from 0 to 255")


# Operations.


@operation("inception_crop")
@dataclasses.dataclass(frozen=True)
class InceptionCrop:
    """Random window of a random area and aspect ratio, resized to the target.

    Szegedy et al. 2014, "Going deeper with convolutions", section 6; the choice of the window is
    that of torchvision's RandomResizedCrop: ten tries, then the largest window in the middle whose
    aspect ratio is allowed.

    Attributes:
      scale: smallest and largest area, as a fraction of the picture's.
      ratio: smallest and largest width / height, chosen uniformly in its logarithm.
      reduced: decode a JPEG at 1/2, 1/4 or 1/8 where the window stays at least as large as the
        target. False gives the pixels of a whole decoding, more slowly for large files.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    reduced: bool = True

    def __post_init__(self):
        check_range("scale", self.scale, 1e-6, 1.0)
        check_range("ratio", self.ratio, 1e-3, 1e3)
        if not isinstance(self.reduced, bool):
            raise UserError(f"reduced is {self.reduced!r}: expected True or False")

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the window at the target's size."""
        top, left, *size = self.window(size_of(picture), rng)
        if self.reduced and isinstance(picture, EncodedImage):
            reduction = picture.reduction(size, target.size)
            if reduction > 1:
                return _resize_from_reduced(picture, reduction, (top, left, *size), target)
        return resize(crop(picture, top, left, size), target.size, target.interpolation)

    def window(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Returns (top, left, height, width) of a random window in a picture of `size`."""
        height, width = size
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            u, v, y, x = rng.random(4)
            area = height * width * between(*self.scale, u)
            ratio = math.exp(between(*log_ratio, v))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
        h = min(height, max(1, round(width / self.ratio[0])))
        w = min(width, max(1, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w


def _resize_from_reduced(
    picture: EncodedImage, reduction: int, window: tuple[int, int, int, int], target: Target
) -> Image.Image:
    """Decodes at 1/reduction and resizes the window, which may then end within a pixel."""
    top, left, height, width = (value / reduction for value in window)
    image = picture.decode(reduction)
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize((target.size[1], target.size[0]), target.interpolation, box=box)


@operation("random_crop")
@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A window of the target's size, each place equally likely."""

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the window; UserError where the picture is smaller than it."""
        spare = _check_room(picture, target, "random_crop")
        y, x = rng.random(2)
        return crop(picture, int(y * (spare[0] + 1)), int(x * (spare[1] + 1)), target.size)


@operation("center_crop")
@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The window of the target's size in the middle.

    Attributes:
      rounding: of half an odd margin. "even": to the nearest even number, as torchvision and timm;
        "down": as Transformers, whose window lies one pixel before theirs for margins 3, 7, 11 ...
    """

    rounding: str = "even"

    def __post_init__(self):
        if self.rounding not in ROUNDINGS:
            raise UserError(unknown("rounding", str(self.rounding), ROUNDINGS))

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the window; UserError where the picture is smaller than it."""
        del rng
        spare = _check_room(picture, target, "center_crop")
        halve = ROUNDINGS[self.rounding]
        return crop(picture, halve(spare[0] / 2), halve(spare[1] / 2), target.size)


@operation("resize")
@dataclasses.dataclass(frozen=True)
class Resize:
    """To floor(target / crop_pct); the aspect ratio is not kept.

    Attributes:
      crop_pct: fraction of each side that a centre crop of the target's size will keep.
    """

    crop_pct: float = 1.0

    def __post_init__(self):
        _check_crop_pct(self.crop_pct)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the resized picture."""
        del rng
        return resize(picture, _before_crop(target, self.crop_pct), target.interpolation)


@operation("resize_small")
@dataclasses.dataclass(frozen=True)
class ResizeSmall:
    """The smallest size that covers floor(target / crop_pct) and keeps the aspect ratio.

    These are the sizes of timm's evaluation transform. For a square target that is torchvision's
    `Resize(floor(size / crop_pct))`: the short side is given, the long side is rounded down. For
    another target it is timm's `ResizeKeepRatio`: the other side is rounded to the nearest.

    Attributes:
      crop_pct: fraction of each side that a centre crop of the target's size will keep.
    """

    crop_pct: float = 0.875

    def __post_init__(self):
        _check_crop_pct(self.crop_pct)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the resized picture."""
        del rng
        least = _before_crop(target, self.crop_pct)
        cover = _cover_square if least[0] == least[1] else _cover
        return resize(picture, cover(*size_of(picture), *least), target.interpolation)


def _before_crop(target: Target, crop_pct: float) -> tuple[int, int]:
    """The size of which a crop of the target's size keeps `crop_pct` of each side."""
    return math.floor(target.size[0] / crop_pct), math.floor(target.size[1] / crop_pct)


def _cover_square(height: int, width: int, side: int, _: int) -> tuple[int, int]:
    """`height`x`width` scaled so that the short side is `side`."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _cover(height: int, width: int, least_height: int, least_width: int) -> tuple[int, int]:
    """`height`x`width` scaled so that it just covers what is given."""
    ratio = min(height / least_height, width / least_width)
    return round(height / ratio), round(width / ratio)


@operation("resize_pad")
@dataclasses.dataclass(frozen=True)
class ResizePad:
    """The largest size that fits into the target and keeps the aspect ratio, padded to it.

    Attributes:
      mode: what the border shows: "constant", "edge" (the last row repeated) or "reflect".
      fill: 0 to 255, for "constant".
    """

    mode: str = "constant"
    fill: int = 0

    def __post_init__(self):
        _check_padding(self.mode, self.fill)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the resized and padded picture, centred."""
        del rng
        height, width = size_of(picture)
        ratio = min(target.size[0] / height, target.size[1] / width)
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        array = as_array(resize(picture, size, target.interpolation))
        spare = [side - has for side, has in zip(target.size, size)]
        borders = [(s // 2, s - s // 2) for s in spare] + [(0, 0)]
        fill = {"constant_values": self.fill} if self.mode == "constant" else {}
        return np.pad(array, borders, self.mode, **fill)


@operation("random_shift")
@dataclasses.dataclass(frozen=True)
class RandomShift:
    """Moves the picture by up to k pixels each way: pad by k, then cut the old size at random.

    Attributes:
      k: largest move, in pixels; every whole number from -k to k is equally likely.
      mode: what the uncovered border shows: "constant", "edge" or "reflect".
      fill: 0 to 255, for "constant".
    """

    k: int
    mode: str = "constant"
    fill: int = 0

    def __post_init__(self):
        _check_padding(self.mode, self.fill)
        if not isinstance(self.k, int) or self.k < 0:
            raise UserError(f"k is {self.k!r}: expected a whole number of pixels, 0 or more")

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> np.ndarray:
        """Returns the shifted picture, of the same size; UserError where k is too large for it."""
        del target
        array = as_array(picture)
        if self.k >= min(array.shape[:2]):
            raise UserError(f"random_shift by up to {self.k} pixels of {_by(array.shape)}")
        y, x = (int(u * (2 * self.k + 1)) - self.k for u in rng.random(2))
        if self.mode != "constant":
            rows, columns = (_moved(n, by, self.mode) for n, by in zip(array.shape, (y, x)))
            return array[rows[:, None], columns]
        height, width = array.shape[:2]
        shifted = np.full_like(array, self.fill)
        shifted[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)] = array[
            max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)
        ]
        return shifted


def _moved(length: int, by: int, mode: str) -> np.ndarray:
    """Returns which old index each new index shows."""
    index = np.arange(length) + by
    if mode == "edge":
        return index.clip(0, length - 1)
    return length - 1 - np.abs(length - 1 - np.abs(index))


@operation("flip")
@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors left to right.

    Attributes:
      p: how often.
    """

    p: float = 0.5

    def __post_init__(self):
        check_probability(self.p)

    def __call__(self, picture: Picture, rng: np.random.Generator, target: Target) -> Picture:
        """Returns the picture or its mirror image."""
        del target
        return as_array(picture)[:, ::-1] if rng.random() < self.p else picture
