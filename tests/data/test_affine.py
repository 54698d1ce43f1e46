"""Random affine maps: torchvision's pixels for the same numbers, and the stated law."""

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import natural, photograph
from tests.models import timm_oracle  # noqa: F401 - makes torchvision importable without CUDA
from vit_jax.data.affine import RandomAffine
from vit_jax.data.transforms import Target, build_transform

IMAGES = [Image.fromarray(p) for p in (photograph(), natural(90, 120))]
ARGUMENTS = [(180,), (30, (0.1, 0.3)), (0, (0, 0), (0.5, 2.0)), (10, (0.2, 0.1), (0.8, 1.2), 40)]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_pixels_equal_torchvision(arguments, interpolation, mode):
    from torchvision.transforms import InterpolationMode, functional

    operation = RandomAffine(*arguments, fill=7)
    for seed, image in enumerate([*IMAGES] * 3):
        image = image.convert(mode)
        rotation, shift, scale, shear = operation.choose(image.size, rng(seed))
        theirs = functional.affine(
            image, rotation, shift, scale, [shear, 0.0], InterpolationMode(interpolation), fill=7
        )
        target = Target((1, 1), 3, Image.Resampling[interpolation.upper()])
        ours = operation(image, rng(seed), target)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_draws_are_uniform():
    operation, generator, n = RandomAffine(30, (0.1, 0.3), (0.5, 2), 20), rng(), 4000
    draws = [operation.choose((1000, 2000), generator) for _ in range(n)]
    rotation, shift, scale, shear = zip(*draws)
    x, y = np.array(shift).T
    limits = [(rotation, -30, 30), (scale, 0.5, 2), (shear, -20, 20), (x, -100, 100)]
    for values, low, high in [*limits, (y, -600, 600)]:
        ranks = (np.sort(values) - low) / (high - low)
        # Kolmogorov-Smirnov: above 1.95 / sqrt(n) once in a thousand; shifts are rounded.
        assert np.abs(ranks - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5 + 1 / 400
    assert np.abs(np.corrcoef([rotation, x, y, scale, shear]) - np.eye(5)).max() < 5 / n**0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_changes_nothing(channels):
    picture = natural(20, 30)[:, :, :channels]
    transform = build_transform("random_affine(0)", (20, 30), channels)
    np.testing.assert_array_equal(transform(picture, rng()), picture)


def test_alpha_is_an_error():
    """Pillow would weigh colours by it."""
    with pytest.raises(ValueError, match="random_affine of a picture of 4 channels"):
        build_transform("random_affine(5)", 8, 4)(np.zeros((8, 8, 4), np.uint8), rng())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random_affine", "missing a required argument: 'degrees'"),
        ("random_affine(-1)", "degrees is -1: expected a number from 0 to 180"),
        ("random_affine(5, 0.1)", "translate is 0.1: expected two numbers from 0 to 1"),
        ("random_affine(5, (0.1, 2))", r"translate is \(0.1, 2\): expected two numbers"),
        ("random_affine(5, scale=(0, 1))", r"scale is \(0, 1\): expected two numbers a <= b"),
        ("random_affine(5, shear=90)", "shear is 90: expected a number from 0 to 89"),
        ("random_affine(5, fill=-1)", "fill is -1: expected a whole number from 0 to 255"),
    ],
)
def test_a_wrong_spec_is_an_error_at_once(spec, message):
    with pytest.raises(ValueError, match=message):
        build_transform(spec, 8)
