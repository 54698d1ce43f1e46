"""Transforms: the pixels of torchvision's, the distribution of the paper's, errors at once."""

import gc
import math
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import encode, needs_photographs, photographs, smooth
from tests.models import timm_oracle  # noqa: F401 - makes torchvision importable without CUDA
from vit_jax.data.decode import EncodedImage
from vit_jax.data.transforms import (
    INTERPOLATIONS,
    InceptionCrop,
    RandomShift,
    build_transform,
)

SIZES = [(375, 500), (500, 375), (300, 300), (224, 1000), (97, 131)]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_resize_small_and_center_crop_equal_torchvision(size, interpolation, crop_pct):
    from torchvision import transforms as tv

    picture = smooth(*size)
    small = tv.Resize(
        math.floor(224 / crop_pct), tv.InterpolationMode(interpolation), antialias=True
    )
    expected = tv.CenterCrop(224)(small(Image.fromarray(picture)))
    spec = f"resize_small(crop_pct={crop_pct}) | center_crop"
    transform = build_transform(spec, 224, interpolation=interpolation)
    for image in (encode(picture), picture):
        np.testing.assert_array_equal(transform(image, rng()), np.asarray(expected))


@needs_photographs
def test_evaluation_of_photographs_equals_timm():
    from timm.data import create_transform

    theirs = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=0.9, mean=(0,) * 3, std=(1,) * 3
    )
    ours = build_transform("resize_small(0.9)|center_crop", 224)
    for path in photographs(10):
        expected = theirs(Image.open(path).convert("RGB")).numpy().transpose(1, 2, 0) * 255
        np.testing.assert_array_equal(ours(path.read_bytes(), rng()), np.round(expected))


@pytest.mark.parametrize("target", [(64, 96), (96, 64), (1, 50)])
def test_sides_need_not_be_equal(target):
    for size in SIZES:
        for spec in (
            "resize",
            "resize_small|center_crop",
            "resize_small(0.5)|random_crop",
            "resize_pad",
            "inception_crop|flip",
            "resize|random_shift(0)",
        ):
            array = build_transform(spec, target)(encode(smooth(*size), "JPEG"), rng())
            assert array.shape == (*target, 3), spec


def test_resize_small_keeps_the_aspect_ratio_for_any_target():
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[100:200, 100:200] = 255  # a square must stay one
    array = build_transform("resize_small(1.0)|center_crop", (60, 120))(picture, rng())
    bright = array[:, :, 0] > 127
    assert bright.any(0).sum() == bright.any(1).sum() == 40


@pytest.mark.parametrize("seed", range(20))
def test_inception_crop_equals_torchvision_on_the_same_window(seed):
    from torchvision.transforms import InterpolationMode, functional

    picture = smooth(375, 500, seed)
    operation = InceptionCrop(reduced=False)
    window = operation.window((375, 500), rng(seed))
    expected = functional.resized_crop(
        Image.fromarray(picture), *window, [224, 224], InterpolationMode.BICUBIC
    )
    transform = build_transform("inception_crop(reduced=False)", 224)
    np.testing.assert_array_equal(transform(encode(picture), rng(seed)), np.asarray(expected))


def test_inception_crop_has_the_stated_distribution():
    scale, ratio, size = (0.08, 1.0), (3 / 4, 4 / 3), (1000, 1000)
    operation = InceptionCrop(scale, ratio)
    generator = rng()
    windows = np.array([operation.window(size, generator) for _ in range(4000)])
    top, left, height, width = windows.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1000).all()
    assert (left + width <= 1000).all()
    area, aspect = height * width / 1e6, width / height
    assert scale[0] * 0.99 < area.min() < 0.09
    assert 0.95 < area.max() <= 1
    assert ratio[0] * 0.99 <= aspect.min()
    assert aspect.max() <= ratio[1] * 1.01
    # Where the window surely fits (small areas), area and log ratio are uniform: mean of n values
    # in [a, b] within 5 standard errors (b - a) / sqrt(12 n).
    fits = area < 0.5
    for values, low, high in ((area[fits], 0.08, 0.5), (np.log(aspect), *np.log(ratio))):
        error = abs(values.mean() - (low + high) / 2)
        assert error < 5 * (high - low) / math.sqrt(12 * len(values))
    place = top[fits] / (1000 - height[fits])
    assert abs(place.mean() - 0.5) < 5 / math.sqrt(12 * fits.sum())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 1000), (0, 433, 100, 133)),  # too wide: ratio 4/3, in the middle
        ((1000, 100), (433, 0, 133, 100)),
    ],
)
def test_inception_crop_falls_back_to_the_middle(size, expected):
    assert InceptionCrop((0.9, 1.0)).window(size, rng()) == expected


def test_inception_crop_at_reduced_scale_shows_the_same():
    picture = smooth(900, 1200)
    data = encode(picture, "JPEG", quality=95)
    whole = build_transform("inception_crop(reduced=False)", 64)
    reduced = build_transform("inception_crop", 64)
    assert EncodedImage(data).reduction((300, 300), (64, 64)) == 4
    for seed in range(10):
        difference = whole(data, rng(seed)).astype(int) - reduced(data, rng(seed))
        assert np.abs(difference).mean() < 1.5
        assert np.abs(difference).max() < 20


def test_flip():
    picture = smooth(20, 30)
    transform = build_transform("flip", (20, 30))
    generator = rng()
    results = [transform(picture, generator) for _ in range(200)]
    flipped = [np.array_equal(r, picture[:, ::-1]) for r in results]
    kept = [np.array_equal(r, picture) for r in results]
    assert all(f != k for f, k in zip(flipped, kept))
    assert 60 < sum(flipped) < 140
    np.testing.assert_array_equal(
        build_transform("flip(1)", (20, 30))(picture, rng()), picture[:, ::-1]
    )


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_random_shift_is_pad_and_crop(mode):
    picture = smooth(8, 9)
    padded = np.pad(picture, [(2, 2), (2, 2), (0, 0)], mode)
    windows = {padded[y : y + 8, x : x + 9].tobytes(): (y, x) for y in range(5) for x in range(5)}
    assert len(windows) == 25
    transform = build_transform(f"random_shift(2, mode='{mode}')", (8, 9))
    generator = rng()
    seen = [windows[transform(picture, generator).tobytes()] for _ in range(1000)]
    counts = np.bincount([5 * y + x for y, x in seen], minlength=25)
    assert counts.min() > 15  # all 25 equally likely: 40 each, standard deviation 6.2
    assert counts.max() < 75


def test_random_crop_reaches_every_place():
    picture = smooth(6, 7)
    transform = build_transform("random_crop", (4, 4))
    generator = rng()
    windows = {picture[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(4)}
    assert {transform(picture, generator).tobytes() for _ in range(300)} == windows


def test_resize_pad():
    picture = np.full((10, 20, 3), 200, np.uint8)
    array = build_transform("resize_pad(fill=7)", (40, 40))(picture, rng())
    assert (array[10:30] == 200).all()
    assert (array[:10] == 7).all()
    assert (array[30:] == 7).all()
    assert (build_transform("resize_pad(mode='edge')", 40)(picture, rng()) == 200).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_of_files_and_arrays(channels):
    transform = build_transform("resize", 16, channels=channels)
    for stored in (1, 3, 4):
        array = np.full((20, 20, stored), 99, np.uint8)
        array[..., 3:] = 255
        assert transform(array, rng()).shape == (16, 16, channels)
        assert (transform(array, rng())[..., : min(channels, 3)] == 99).all()
    assert transform(encode(smooth(20, 20)), rng()).shape == (16, 16, channels)


def test_a_generator_in_the_same_state_gives_the_same_pixels():
    transform = build_transform("inception_crop|flip|random_shift(3)", 32)
    data = encode(smooth(50, 60), "JPEG")
    copy = pickle.loads(pickle.dumps(transform))
    np.testing.assert_array_equal(transform(data, rng(1)), copy(data, rng(1)))
    assert not np.array_equal(transform(data, rng(1)), transform(data, rng(2)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("centre_crop", "unknown operation 'centre_crop': did you mean 'center_crop'"),
        ("resize|", "does not parse"),
        ("", "does not parse"),
        ("flip(q=1)", r"unexpected keyword argument 'q'; flip takes \(p\)"),
        ("flip(0.1, 0.2)", r"too many positional arguments; flip takes \(p\)"),
        ("flip(2)", "p is 2: expected a probability"),
        ("random_shift", r"missing a required argument: 'k'; random_shift takes \(k, mode, fill\)"),
        ("random_shift(-1)", "k is -1: expected a whole number"),
        ("random_shift(1, mode='wrap')", "unknown pad mode 'wrap'"),
        ("inception_crop(scale=(0.5, 0.1))", "scale is .*: expected two numbers a <= b"),
        ("inception_crop(scale=0.5)", "scale is 0.5: expected two numbers"),
        ("resize_small(crop_pct=1.1)", "crop_pct is 1.1: expected a number from"),
        ("resize_small(1e-9)", "crop_pct is 1e-09: expected a number from 0.01 to 1"),
        ("resize_small('all')", "crop_pct is 'all': expected a number"),
        ("resize(0)", "crop_pct is 0: expected a number from 0.01 to 1"),
        ("center_crop('up')", "unknown rounding 'up'"),
        ("resize_pad(fill=300)", "fill is 300: expected a whole number from 0 to 255"),
        ("resize_pad(fill=7.5)", "fill is 7.5: expected a whole number from 0 to 255"),
        ("random_shift(1, fill=-1)", "fill is -1: expected a whole number from 0 to 255"),
        ("random_shift(1.5)", "k is 1.5: expected a whole number"),
        ("flip('often')", "p is 'often': expected a probability"),
        ("inception_crop(scale=(0, 1))", "scale is .*: expected two numbers"),
        ("inception_crop(ratio=(0.5, 1e999))", "ratio is .*: expected two numbers"),
        ("inception_crop(ratio=(1, 'wide'))", "ratio is .*: expected two numbers"),
        ("inception_crop(reduced='no')", "reduced is 'no': expected True or False"),
        ("flip(__import__('os'))", "malformed node"),
        ("resize + flip", "'resize \\+ flip' is not an operation"),
        ("data.flip", "'data.flip' is not an operation"),
    ],
)
def test_a_wrong_spec_is_an_error_at_once(spec, message):
    with pytest.raises(ValueError, match=message):
        build_transform(spec, 8)


def test_errors_about_size_and_filter():
    with pytest.raises(ValueError, match="size is 0x8"):
        build_transform("resize", (0, 8))
    with pytest.raises(ValueError, match="unknown interpolation 'cubic': did you mean 'bicubic'"):
        build_transform("resize", 8, interpolation="cubic")
    picture = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"made cat\.png 20x30, expected 16x16: end it with resize"
    ):
        build_transform("flip", 16)(picture, rng(), "cat.png")
    for spec in ("center_crop", "random_crop"):
        with pytest.raises(
            ValueError, match=r"of a\.png: .* of 25x25 from 20x30: put resize_small"
        ):
            build_transform(spec, 25)(picture, rng(), "a.png")
    with pytest.raises(ValueError, match="random_shift by up to 20 pixels of 20x30"):
        RandomShift(20)(picture, rng(), None)
    with pytest.raises(ValueError, match=r"float32\[4, 4, 3\], expected encoded bytes or uint8"):
        build_transform("resize", 4)(np.zeros((4, 4, 3), np.float32), rng())


def test_every_filter_is_one():
    picture = smooth(40, 40)
    results = {
        name: build_transform("resize", 16, interpolation=name)(picture, rng()).tobytes()
        for name in INTERPOLATIONS
    }
    assert len(set(results.values())) == len(INTERPOLATIONS)


def test_threads_may_build_at_once():
    """Python 3.11's parser fails where another thread parses while it collects garbage."""

    def give_way(phase, info):
        time.sleep(0)

    def build(_):
        return build_transform("resize_small(0.8)|center_crop('down')", (8, 8), channels=3)

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(give_way)
    gc.set_threshold(20)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert len(list(threads.map(build, range(4000)))) == 4000
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
