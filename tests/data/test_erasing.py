"""Random erasing: timm's rectangles for the same choices, and its law."""

import numpy as np
import pytest

from tests.data.pictures import ListSource, natural
from tests.data.timm_augment import timm_draws, timm_erasing  # noqa: F401 - a fixture
from vit_jax import data
from vit_jax.data.erasing import MODES, RandomErasing
from vit_jax.data.transforms import Target, build_transform
from vit_jax.training.erase import FILLS

SIZES = [(224, 224), (48, 96), (7, 5)]


def rng(seed=0):
    return np.random.default_rng(seed)


def target(size):
    return Target(size, 3, None)


def erased(mark, size):
    """Which pixels a mark covers."""
    covered = np.zeros(size, bool)
    for top, left, height, width, _ in mark:
        assert top + height <= size[0]
        assert left + width <= size[1]
        covered[top : top + height, left : left + width] = True
    return covered


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_rectangles_are_timms(size, count, timm_draws, monkeypatch):  # noqa: F811
    import torch

    theirs = timm_erasing.RandomErasing(0.7, mode="const", max_count=count, device="cpu")
    ours = RandomErasing(0.7, "const", count=count)
    for seed in range(200):
        generator = rng(seed)
        timm_draws(generator)

        def zeros(*_, generator=generator, **__):  # the seed of the noise is drawn here
            generator.integers(2**31)
            return torch.zeros(3, 1, 1)

        monkeypatch.setattr(timm_erasing, "_get_pixels", zeros)
        expected = theirs(torch.ones(3, *size)).numpy()[0] == 0
        mark = ours.mark(rng(seed), target(size))
        np.testing.assert_array_equal(erased(mark, size), expected, err_msg=f"seed {seed}")


def test_rectangles_have_the_stated_distribution():
    operation, generator, n = RandomErasing(0.25), rng(), 8000
    marks = np.array([operation.mark(generator, target((400, 400)))[0] for _ in range(n)])
    there = marks[:, 2] > 0
    assert abs(there.mean() - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5
    assert not marks[~there].any()
    top, left, height, width, seed = marks[there].T
    area, log_ratio = height * width / 160000, np.log(height / width)
    assert 0.02 * 0.98 < area.min() < 0.025
    # Rectangles longer than the picture are drawn again: of the areas below 0.3 none is.
    fits = area < 0.3
    for values, low, high in (
        (area[fits], 0.02, 0.3),
        (log_ratio[fits], np.log(0.3), -np.log(0.3)),
        (top[fits] / (400 - height[fits]), 0, 1),
        (left[fits] / (400 - width[fits]), 0, 1),
        (seed, 0, 2**31),
    ):
        error = abs(values.mean() - (low + high) / 2)
        assert error < 5 * (high - low) / (12 * len(values)) ** 0.5
    assert len(set(seed)) == len(seed)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_field_and_its_filling(mode):
    transform = build_transform(f"resize | random_erasing(1, '{mode}', count=2)", 8)
    example = transform.example(natural(8, 8), rng())
    assert set(example) == {"image", f"erase_{mode}"}
    assert example[f"erase_{mode}"].dtype == np.int32
    assert example[f"erase_{mode}"].shape == (2, 5)
    assert {f"erase_{mode}" for mode in MODES} == set(FILLS)


def test_the_picture_stays_as_it_is():
    picture = natural(8, 8)
    transform = build_transform("random_erasing(1)", 8)
    np.testing.assert_array_equal(transform(picture, rng()), picture)
    np.testing.assert_array_equal(transform.example(picture, rng())["image"], picture)


def test_batches_carry_the_marks():
    """The same for every batch size, number of hosts and workers, start, and with the cache."""
    source = ListSource(10)
    transform = build_transform("inception_crop | flip | random_erasing(0.5)", 8)

    def take(count, **options):
        options = {"batch_size": 4, "seed": 0} | options
        with data.train_batches(source, transform, **options) as batches:
            rows = [next(batches) for _ in range(count)]
        return {name: np.concatenate([b[name] for b in rows]) for name in rows[0]}

    rows = take(10)
    marks = rows["erase_pixel"]
    assert marks.shape == (40, 1, 5)
    assert 5 < (marks[:, 0, 2] > 0).sum() < 35
    plain = build_transform("inception_crop | flip", 8)
    with data.train_batches(source, plain, batch_size=40, seed=0) as batches:
        np.testing.assert_array_equal(rows["image"], next(batches)["image"])
    for options in ({"batch_size": 8}, {"workers": 2, "batch_size": 8}, {"cache": True}):
        others = take(40 // options.get("batch_size", 4), **options)
        np.testing.assert_array_equal(marks, others["erase_pixel"])
    np.testing.assert_array_equal(marks[12:], take(7, start_batch=3)["erase_pixel"])
    hosts = [take(10, rows=rows)["erase_pixel"] for rows in ((0, 1), (2, 3))]
    split = np.stack([part.reshape(10, 2, 1, 5) for part in hosts], axis=1)
    np.testing.assert_array_equal(marks, split.reshape(40, 1, 5))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random_erasing(1.5)", "p is 1.5: expected a probability"),
        ("random_erasing(mode='noise')", "unknown mode 'noise': expected one of 'const', 'pixel'"),
        ("random_erasing(area=(0.5, 1.5))", "area is .*: expected two numbers a <= b"),
        ("random_erasing(ratio=0.3)", "ratio is 0.3: expected two numbers a <= b"),
        ("random_erasing(count=0)", "count is 0: expected a whole number, 1 or more"),
        ("random_erasing | flip", "after random_erasing would move what it marks: put it last"),
        ("random_erasing | random_erasing", "random_erasing twice in the same mode"),
    ],
)
def test_a_wrong_spec_is_an_error_at_once(spec, message):
    with pytest.raises(ValueError, match=message):
        build_transform(spec, 8)
