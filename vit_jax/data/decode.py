"""Encoded pictures to 8-bit arrays: JPEG, PNG, WebP, GIF, BMP, TIFF and PPM, through Pillow.

Rules, the same for every format:

- The first frame of an animation or of a multi-page file is the picture.
- EXIF orientation is applied: the array is as the photographer saw the scene. An EXIF block that
  cannot be read counts as absent.
- Alpha is dropped, not composited, as in `PIL.Image.convert("RGB")`: pixel values are those that
  timm and torchvision users know (and that `tf.io.decode_image(channels=3)` gives). With
  `channels=4` it is kept, 255 where the file has none.
- Palettes are expanded to their colours. Grey is repeated over the channels. CMYK goes through
  Pillow's plain conversion, without a colour profile.
- 16 bits become 8 by keeping the high byte, `v >> 8`, so that 0 is 0 and 65535 is 255. Integers
  beyond 16 bits and floats have no known white: an error.
- A file that ends early is an error and never a half-grey picture.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vit_jax.errors import UserError

# What is tried on a file, whatever it is called. Pillow knows more formats, some of which start
# other programs (EPS) or are rarely fuzzed: files may come from anywhere.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name
REDUCTIONS = (8, 4, 2)  # what a JPEG decoder can divide both sides by for less than the full cost

_ORIENTATION_TAG = 0x0112
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeError(UserError):
    """A picture that cannot be decoded. `name` is the file or example, `cause` what is wrong."""

    def __init__(self, name: str, cause: str):
        super().__init__(name, cause)  # both in `args`, so that it survives pickling
        self.name = name
        self.cause = cause

    def __str__(self) -> str:
        return f"cannot decode {self.name}: {self.cause}"


class EncodedImage:
    """A picture whose header is read and whose pixels are not yet decoded.

    Attributes:
      size: (height, width) in pixels, after orientation.
      name: what to call it in an error.
    """

    def __init__(self, data: bytes, channels: int = 3, name: str = "image"):
        """Reads the header.

        Args:
          data: the encoded file.
          channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha): what `decode` returns.
          name: what to call the picture in an error.

        Raises:
          DecodeError: the bytes do not begin as a picture of a known format.
          UserError: `channels` is not 1, 3 or 4.
        """
        self._mode = mode_of(channels)
        self.name = name
        self._image = _opened(data, name)
        width, height = self._image.size
        swapped = _orientation(self._image) in (5, 6, 7, 8)
        self.size = (width, height) if swapped else (height, width)

    def reduction(self, region: tuple[int, int], target: tuple[int, int]) -> int:
        """Returns the largest reduction that leaves `region` at least as large as `target`.

        Args:
          region: (height, width) of the part of this picture that is wanted.
          target: (height, width) it is going to be resized to.

        Returns:
          1, 2, 4 or 8; always 1 where the format has no cheap reduced decoding (all but JPEG).
        """
        if self._image.format not in ("JPEG", "MPO"):
            return 1
        room = min(region[0] // target[0], region[1] // target[1])
        return next((r for r in REDUCTIONS if r <= room), 1)

    def decode(self, reduction: int = 1) -> Image.Image:
        """Decodes the pixels; once, since it uses the picture up.

        Args:
          reduction: divide both sides by it, rounding up: a value that `reduction()` returned.

        Returns:
          A Pillow image of mode "L", "RGB" or "RGBA".

        Raises:
          DecodeError: the file is damaged or ends early, or its pixels have no known range.
        """
        image = self._image
        with _as_decode_error(self.name):
            if reduction > 1:
                image.draft(None, (image.width // reduction, image.height // reduction))
            return _upright(image, self._mode)


def stored_size(data: bytes, name: str = "image") -> tuple[int, int]:
    """Height and width in pixels as the file has them, before orientation.

    Only the header is read. (An orientation may stand behind the pixels: to find it, Pillow decodes
    a PNG.)

    Args:
      data: the encoded file.
      name: what to call the picture in an error.

    Raises:
      DecodeError: the bytes do not begin as a picture of a known format; or it has more pixels
        than Pillow would decode (`Image.MAX_IMAGE_PIXELS`, twice).
    """
    image = _opened(data, name)
    return image.height, image.width


def decode(data: bytes, channels: int = 3, name: str = "image") -> np.ndarray:
    """Decodes a whole picture.

    Args:
      data: the encoded file.
      channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
      name: what to call the picture in an error.

    Returns:
      uint8 (height, width, channels).

    Raises:
      DecodeError: the bytes are not a whole picture of a known format.
    """
    return to_array(EncodedImage(data, channels, name).decode())


def decode_pillow(image: Image.Image, channels: int = 3, name: str = "image") -> np.ndarray:
    """Decodes a Pillow image, which `Image.open` has perhaps not read yet.

    Args:
      image: as it came from its file: with its EXIF orientation, where there is one.
      channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
      name: what to call the picture in an error.

    Returns:
      uint8 (height, width, channels), what `decode` makes of the same file.

    Raises:
      DecodeError: its file is damaged or ends early, or its pixels have no known range.
    """
    mode = mode_of(channels)
    with _as_decode_error(name):
        return to_array(_upright(image, mode))


def _opened(data: bytes, name: str) -> Image.Image:
    """A Pillow image whose pixels are not yet read."""
    with _as_decode_error(name, data):
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _upright(image: Image.Image, mode: str) -> Image.Image:
    """Loads the pixels, undoes the orientation and converts."""
    image.load()
    undo = _UNDO_ORIENTATION.get(_orientation(image))
    if undo is not None:
        image = image.transpose(undo)
    return convert(image, mode)


def mode_of(channels: int) -> str:
    """Returns Pillow's name for a number of channels; UserError where there is none."""
    if channels not in MODES:
        raise UserError(f"channels is {channels}: pictures decode to one of {sorted(MODES)}")
    return MODES[channels]


def to_array(image: Image.Image) -> np.ndarray:
    """Returns an 8-bit Pillow image as uint8 (height, width, channels)."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def to_image(array: np.ndarray) -> Image.Image:
    """Returns uint8 (height, width, channels), of 1, 3 or 4 channels, as a Pillow image."""
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Returns a decoded image in mode "L", "RGB" or "RGBA", by the rules of this module.

    Raises:
      UserError: the pixels have no known range.
      ValueError: Pillow cannot convert them.
    """
    if image.mode.startswith(("I", "F")):
        image = _high_byte(image)
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # expands the palette together with its transparency
    if image.mode == "CMYK" and mode == "L":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _high_byte(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(
            f"pixels of mode {image.mode!r} from {values.min()} to {values.max()} have no known "
            "white: expected integers of at most 16 bits"
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation that is still to be undone, 1 to 8."""
    if image.format == "TIFF":  # Pillow undoes it itself
        return 1
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # parsers of a damaged block raise anything; the pixels do not depend on it
        return 1


@contextlib.contextmanager
def _as_decode_error(name: str, data: bytes | None = None) -> Iterator[None]:
    """Turns whatever a decoder raises about untrusted bytes into a DecodeError."""
    try:
        yield
    except (DecodeError, MemoryError):
        raise
    except UserError as error:
        raise DecodeError(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise DecodeError(name, _not_a_picture(data or b"")) from error
    except Exception as error:
        raise DecodeError(name, f"{type(error).__name__}: {error}") from error


def _not_a_picture(data: bytes) -> str:
    if not data:
        return "it is empty (0 bytes)"
    return f"it is not a {', '.join(FORMATS)} file; it begins with {data[:16]!r}"
