"""Erasing on the device: exactly the marked pixels, normal noise, a function of the mark alone."""

import jax
import numpy as np
import pytest
from scipy.special import ndtr

from vit_jax.training import sharding
from vit_jax.training.step import make_normalize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
normalize = jax.jit(make_normalize(MEAN, STD))


def batch_of(marks, mode, size=(64, 48)):
    rows = len(marks)
    image = np.random.default_rng(0).integers(0, 256, (rows, *size, 3), np.uint8)
    batch = {"image": image, "label": np.arange(rows)}
    return batch, batch | {f"erase_{mode}": np.array(marks, np.int32)}


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_only_what_is_marked_is_erased(mode):
    marks = [[[5, 7, 20, 30, 1]], [[0, 0, 0, 0, 0]], [[0, 0, 63, 47, 2]], [[40, 1, 1, 1, 3]]]
    plain, marked = batch_of(marks, mode)
    nothing = batch_of(np.zeros_like(marks), mode)[1]
    after = normalize(marked)
    assert set(after) == {"image", "label"}
    # By the same program, so that rounding is the same too.
    before, after = normalize(nothing)["image"], np.asarray(after["image"])
    np.testing.assert_allclose(before, (plain["image"] / 255 - MEAN) / STD, atol=2e-6)
    before = np.asarray(before)
    for row, ((top, left, height, width, _),) in enumerate(marks):
        covered = np.zeros((64, 48), bool)
        covered[top : top + height, left : left + width] = True
        np.testing.assert_array_equal(after[row][~covered], before[row][~covered])
        assert (after[row] != before[row])[covered].sum() >= 0.99 * 3 * covered.sum()
        if mode == "const":
            assert not after[row][covered].any()
        if mode == "rand":
            assert len(np.unique(after[row][covered], axis=0)) <= 1


def test_pixels_are_standard_normal_and_independent():
    marks = [[[0, 0, 63, 47, seed]] for seed in range(12)]
    noise = np.asarray(normalize(batch_of(marks, "pixel")[1])["image"])[:, :63, :47]
    values = noise.reshape(-1)
    n = len(values)
    assert abs(values.mean()) < 5 / n**0.5
    assert abs(values.var() - 1) < 5 * (2 / n) ** 0.5
    # Kolmogorov-Smirnov: above 1.95 / sqrt(n) once in a thousand.
    distance = np.abs(ndtr(np.sort(values)) - (np.arange(n) + 0.5) / n).max()
    assert distance < 1.95 / n**0.5
    assert np.abs(values).max() > 3.5  # not cut off at black or white
    for one, other in (
        (noise[..., 0], noise[..., 1]),  # channels
        (noise[:, 1:], noise[:, :-1]),  # rows, columns
        (noise[:, :, 1:], noise[:, :, :-1]),
        (noise[1:], noise[:-1]),  # examples
    ):
        assert abs((one * other).mean()) < 5 / one.size**0.5


def test_a_colour_is_standard_normal():
    marks = [[[0, 0, 2, 2, seed]] for seed in range(2000)]
    colours = np.asarray(normalize(batch_of(marks, "rand", (3, 3))[1])["image"])[:, 0, 0]
    n = colours.size
    assert abs(colours.mean()) < 5 / n**0.5
    assert abs(colours.var() - 1) < 5 * (2 / n) ** 0.5
    assert np.abs(np.corrcoef(colours.T) - np.eye(3)).max() < 5 / 2000**0.5


def test_noise_depends_on_the_mark_alone():
    marks = [[[3, 3, 40, 40, seed]] for seed in (7, 8, 7, 2**31 - 1)]
    images = np.asarray(normalize(batch_of(marks, "pixel")[1])["image"])[:, 3:43, 3:43]
    np.testing.assert_array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])
    alone = np.asarray(normalize(batch_of(marks[:1], "pixel")[1])["image"])[:, 3:43, 3:43]
    np.testing.assert_array_equal(alone[0], images[0])


def test_a_later_rectangle_lies_over_an_earlier_one():
    one, other, nothing = [0, 0, 30, 30, 1], [20, 20, 30, 20, 2], [0, 0, 0, 0, 0]
    # By the same program, so that rounding is the same too.
    marks = [[one, other]], [[one, nothing]], [[nothing, other]]
    images = [np.asarray(normalize(batch_of(x, "pixel")[1])["image"])[0] for x in marks]
    both, first, second = images
    np.testing.assert_array_equal(both[20:50, 20:40], second[20:50, 20:40])
    np.testing.assert_array_equal(both[:20, :30], first[:20, :30])


def test_a_batch_over_eight_devices_gets_the_same_noise():
    batch = batch_of([[[3, 3, 40, 40, seed]] for seed in range(8)], "pixel")[1]
    mesh = sharding.make_mesh({"data": 8, "fsdp": 1, "sequence": 1, "tensor": 1})
    rules = sharding.make_rules({"batch": ("data",)})
    place = sharding.batch_sharding(mesh, rules)
    spread = normalize(jax.device_put(batch, place))["image"]
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(np.asarray(spread), np.asarray(normalize(batch)["image"]))
