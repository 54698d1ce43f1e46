"""Colour changes and jitter: pixels of torchvision's, formulas on paper, torchvision's law."""

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import natural, photograph
from tests.models import timm_oracle  # noqa: F401 - makes torchvision importable without CUDA
from vit_jax.data import color
from vit_jax.data.color import ColorJitter
from vit_jax.data.transforms import build_transform

PICTURES = {"photograph": photograph(), "synthetic": natural(90, 120)}
COLOURED = [Image.fromarray(p) for p in PICTURES.values()]
GREY = [image.convert("L") for image in COLOURED]


@pytest.fixture(params=[*COLOURED, *GREY], ids=[*PICTURES, *(f"grey {p}" for p in PICTURES)])
def image(request):
    return request.param


def rng(seed=0):
    return np.random.default_rng(seed)


def same(ours, theirs):
    assert ours.mode == theirs.mode
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (color.brightness, "adjust_brightness"),
        (color.contrast, "adjust_contrast"),
        (color.saturation, "adjust_saturation"),
        (color.sharpness, "adjust_sharpness"),
    ],
)
def test_blends_equal_torchvision(image, ours, theirs, factor):
    from torchvision.transforms import functional

    same(ours(image, factor), getattr(functional, theirs)(image, factor))


@pytest.mark.parametrize("turn", [-0.5, -0.13, -0.001, 0.0, 0.2, 0.5])
def test_hue_equals_torchvision(image, turn):
    from torchvision.transforms import functional

    same(color.hue(image, turn), functional.adjust_hue(image, turn))


def test_a_turn_of_the_hue_is_one_of_the_channels():
    """A third of the circle takes red to green: the formula, without Pillow's HSV."""
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert np.abs(np.asarray(color.hue(red, 1 / 3)).astype(int) - (0, 255, 0)).max() <= 6


def test_changes_of_values_are_their_formulas(image):
    values = np.asarray(image).astype(int)
    for threshold in (0, 100, 128, 256):
        expected = np.where(values < threshold, values, 255 - values)
        np.testing.assert_array_equal(np.asarray(color.solarize(image, threshold)), expected)
    for amount in (0, 55, 128):
        expected = np.where(values < 128, np.minimum(values + amount, 255), values)
        np.testing.assert_array_equal(np.asarray(color.solarize_add(image, amount)), expected)
    for bits in range(-2, 11):
        step = 2 ** (8 - min(max(bits, 0), 8))
        expected = values // step * step
        np.testing.assert_array_equal(np.asarray(color.posterize(image, bits)), expected)
    np.testing.assert_array_equal(np.asarray(color.invert(image)), 255 - values)


def test_contrast_and_histogram_are_their_formulas(image):
    values = np.asarray(image).reshape(-1, len(image.getbands())).astype(float)
    low, high = values.min(0), values.max(0)
    stretched = np.asarray(color.auto_contrast(image)).reshape(values.shape)
    expected = np.clip((values - low) * 255 / (high - low), 0, 255)
    assert np.abs(stretched - expected).max() <= 1  # Pillow rounds down, and its scale is rounded
    equal = np.asarray(color.equalize(image)).reshape(values.shape)
    for before, after in zip(values.astype(int).T, equal.T):
        # The rule of the TPU EfficientNet code: the share of pixels below, in whole steps.
        counts = np.bincount(before, minlength=256)
        step = (len(before) - counts[before.max()]) // 255
        below = np.cumsum(counts) - counts
        np.testing.assert_array_equal(after, np.minimum((below + step // 2) // step, 255)[before])


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_blur_is_gaussian(radius):
    """Of a point: total and variance of the bell, within Pillow's approximation by boxes."""
    point = np.zeros((41, 41), np.uint8)
    point[19:22, 19:22] = 255  # 3x3: variance 2/3 of its own
    blurred = np.asarray(color.blur(Image.fromarray(point), radius)).astype(float)
    assert blurred.sum() == pytest.approx(9 * 255, rel=0.05)
    weights = blurred.sum(0) / blurred.sum()
    variance = (weights * (np.arange(41) - 20) ** 2).sum()
    assert variance == pytest.approx(radius**2 + 2 / 3, rel=0.1)


JITTERS = [
    (0.4, 0.4, 0.4, 0.0),
    (0.8, 0.8, 0.8, 0.2),
    (1.5, 0.0, (0.5, 0.7), (-0.1, 0.5)),
    (0.0, (1, 1), 0.0, 0.3),
]


@pytest.mark.parametrize("arguments", JITTERS)
def test_jitter_equals_torchvision(arguments, image, monkeypatch):
    """With the same order and factors, drawn from the limits that torchvision itself computes."""
    from torchvision import transforms as tv

    for seed in range(6):
        generator = rng(seed)

        def draw(*limits, generator=generator):
            order = generator.permutation(4)
            return order, *(
                None if pair is None else pair[0] + (pair[1] - pair[0]) * generator.random()
                for pair in limits
            )

        monkeypatch.setattr(tv.ColorJitter, "get_params", staticmethod(draw))
        theirs = tv.ColorJitter(*arguments)(image)
        same(ColorJitter(*arguments)(image, rng(seed), None), theirs)


def test_jitter_has_torchvisions_distribution():
    """All 24 orders equally likely, factors uniform, order and factors independent."""
    jitter, generator, count = ColorJitter(0.4, 1.5, (0.5, 0.7), 0.1), rng(), 4800
    draws = [jitter.choose(generator) for _ in range(count)]
    orders = {}
    for draw in draws:
        key = tuple(change.__name__ for change, _ in draw)
        orders[key] = orders.get(key, 0) + 1
    assert len(orders) == 24
    assert all(abs(n - 200) < 5 * 14 for n in orders.values())  # standard deviation 13.8
    limits = {"brightness": (0.6, 1.4), "contrast": (0, 2.5), "saturation": (0.5, 0.7)}
    for name, (low, high) in (limits | {"hue": (-0.1, 0.1)}).items():
        factors = np.array([f for draw in draws for change, f in draw if change.__name__ == name])
        assert len(factors) == count
        assert low <= factors.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < factors.max() <= high
        scaled = np.sort((factors - low) / (high - low))
        # Kolmogorov-Smirnov: above 1.95 / sqrt(n) once in a thousand.
        assert np.abs(scaled - (np.arange(count) + 0.5) / count).max() < 1.95 / count**0.5


def test_jitter_of_nothing_leaves_the_pixels():
    picture = PICTURES["synthetic"]
    transform = build_transform("color_jitter", picture.shape[:2])
    np.testing.assert_array_equal(transform(picture, rng()), picture)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("color_jitter(-0.1)", "brightness is -0.1: expected a number from 0 to 1000, or a pair"),
        ("color_jitter(contrast='much')", "contrast is 'much': expected a number"),
        ("color_jitter(hue=0.6)", "hue is 0.6: expected a number from 0 to 0.5, or a pair"),
        ("color_jitter(hue=(-0.6, 0))", "hue is .*: expected two numbers a <= b from -0.5 to 0.5"),
        ("color_jitter(saturation=(1.2, 0.8))", "saturation is .*: expected two numbers a <= b"),
        ("color_jitter(1e999)", "brightness is inf: expected a number"),
        ("color_jitter(0, 0, 0, 0, 0)", "too many positional arguments; color_jitter takes"),
    ],
)
def test_wrong_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        build_transform(spec, 8)


def test_alpha_is_an_error():
    picture = np.zeros((8, 8, 4), np.uint8)
    with pytest.raises(ValueError, match=r"color_jitter of a picture of 4 channels: expected 1"):
        build_transform("color_jitter(0.4)", 8, channels=4)(picture, rng())
