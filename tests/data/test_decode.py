"""Decoding: every kind of picture gives the pixels it shows, every damaged one an error."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import encode, needs_photographs, photographs, smooth
from vit_jax.data.decode import DecodeError, EncodedImage, decode, to_array

PICTURE = smooth(40, 60)
RGB = Image.fromarray(PICTURE)


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_give_the_pixels(format, options):
    np.testing.assert_array_equal(decode(encode(RGB, format, **options)), PICTURE)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_and_webp_are_close(progressive):
    jpeg = encode(RGB, "JPEG", quality=95, progressive=progressive)
    webp = encode(RGB, "WEBP", quality=95)
    for data in (jpeg, webp):
        error = np.abs(decode(data).astype(int) - PICTURE)
        assert decode(data).dtype == np.uint8
        assert error.mean() < 3


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((5, 4, 3), level, np.uint8)) for level in (10, 200)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (decode(data) == 10).all(), format


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_gives_the_requested_channels(mode, channels):
    data = encode(RGB.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    array = decode(data, channels)
    assert array.shape == (40, 60, channels)
    expected = RGB.convert(mode).convert("RGB").convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    np.testing.assert_array_equal(array, to_array(expected))


def test_cmyk_jpeg_shows_the_colours():
    error = np.abs(decode(encode(RGB.convert("CMYK"), "JPEG", quality=95)).astype(int) - PICTURE)
    assert error.mean() < 5  # the naive conversion and back again is exact; JPEG is not


def test_alpha_is_dropped_and_not_composited():
    rgba = np.dstack([PICTURE, np.zeros((40, 60), np.uint8)])  # nothing of it would show
    np.testing.assert_array_equal(decode(encode(rgba)), PICTURE)
    np.testing.assert_array_equal(decode(encode(rgba), channels=4), rgba)
    assert (decode(encode(RGB), channels=4)[..., 3] == 255).all()


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency():
    palette = RGB.quantize(16)
    data = encode(palette, transparency=bytes([0, 128] + [255] * 14))
    np.testing.assert_array_equal(decode(data), to_array(palette.convert("RGB")))
    alpha = decode(data, channels=4)[..., 3]
    indices = np.asarray(palette)
    assert (alpha[indices == 0] == 0).all()
    assert (alpha[indices == 1] == 128).all()
    assert (alpha[indices > 1] == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(format):
    levels = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    array = decode(encode(levels, format))
    np.testing.assert_array_equal(array, np.repeat((levels >> 8)[..., None], 3, 2))
    assert (array.min(), array.max()) == (0, 255)


def test_16_bit_rgb_keeps_the_high_byte():
    levels = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), np.uint16)
    np.testing.assert_array_equal(decode(png_16_bit_rgb(levels)), levels >> 8)


def png_16_bit_rgb(levels):
    """A PNG by its specification; Pillow cannot write this one."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width, _ = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("values", [np.float32([[0, 1]]), np.int32([[0, 70000]]), np.int32([[-1]])])
def test_pixels_without_a_known_white_are_refused(values):
    with pytest.raises(DecodeError, match=r"depth.tiff: pixels of mode .* no known white"):
        decode(encode(values, "TIFF"), name="depth.tiff")


# How a camera held in each of the eight ways stores the scene: the inverse of what a viewer does.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](PICTURE))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(stored, format, exif=exif, **options)
    assert EncodedImage(data).size == (40, 60)
    np.testing.assert_array_equal(decode(data), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg_decoded_at_reduced_scale(orientation):
    scene = smooth(400, 640)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(STORED[orientation](scene)), "JPEG", exif=exif, quality=95)
    image = EncodedImage(data)
    assert image.size == (400, 640)
    reduced = to_array(image.decode(reduction=4))
    assert reduced.shape == (100, 160, 3)
    expected = scene.reshape(100, 4, 160, 4, 3).mean((1, 3))
    assert np.abs(reduced - expected).mean() < 2


def test_unreadable_exif_counts_as_absent():
    data = encode(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data), PICTURE)


def test_reduction_never_goes_below_the_target():
    jpeg = encode(smooth(512, 640), "JPEG")
    expected = {(512, 640): 2, (512, 512): 2, (449, 640): 2, (447, 640): 1, (100, 100): 1}
    for region, reduction in expected.items():
        assert EncodedImage(jpeg).reduction(region, (224, 224)) == reduction
    assert EncodedImage(jpeg).reduction((512, 640), (10, 10)) == 8
    assert EncodedImage(encode(PICTURE)).reduction((40, 60), (1, 1)) == 1  # not a JPEG


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the TIFF
def test_a_file_that_ends_early_is_an_error(format):
    data = encode(smooth(200, 300), format)
    for length in (len(data) // 4, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(DecodeError, match=f"cannot decode half.{format}: "):
            decode(data[:length], name=f"half.{format}")


def test_what_is_not_a_picture():
    with pytest.raises(DecodeError, match=r"cannot decode empty.jpg: it is empty"):
        decode(b"", name="empty.jpg")
    with pytest.raises(DecodeError, match=r"notes.jpg: it is not a JPEG, PNG.* b'dear diary"):
        decode(b"dear diary, today", name="notes.jpg")
    with pytest.raises(DecodeError, match=r"x.eps: it is not"):  # would start Ghostscript
        decode(encode(RGB, "EPS"), name="x.eps")
    with pytest.raises(ValueError, match=r"channels is 2: .*\[1, 3, 4\]"):
        decode(encode(RGB), channels=2)


def test_a_huge_picture_in_a_small_file_is_refused():
    header = b"P6 100000 100000 255\n"
    with pytest.raises(DecodeError, match="DecompressionBomb"):
        decode(header, name="bomb.ppm")


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(DecodeError("a.jpg", "it is empty")))
    assert (error.name, error.cause) == ("a.jpg", "it is empty")
    assert str(error) == "cannot decode a.jpg: it is empty"


@needs_photographs
def test_photographs_are_as_pillow_shows_them():
    for path in photographs(20):
        expected = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(decode(path.read_bytes(), name=path.name), expected)
