"""Rows of original, masked, reconstructed and pasted pictures."""

import numpy as np
import pytest

from tests.visualize.tiny import MAE, drawn
from vit_jax.errors import UserError
from vit_jax.visualize import reconstructions, to_pixels
from vit_jax.visualize.kinds import Picture, reconstruction_sheet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)


def normalised(pixels):
    return ((pixels / 255 - MEAN) / STD).astype(np.float32)


def test_normalising_and_back_gives_the_same_bytes(pixels):
    np.testing.assert_array_equal(to_pixels(normalised(pixels), MEAN, STD), pixels)
    every = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(to_pixels(normalised(every), MEAN, STD), every)


def test_what_is_out_of_range_is_cut_off():
    np.testing.assert_array_equal(
        to_pixels(np.array([[-9.0, 0.0, 9.0]]), MEAN, STD), [[0, 128, 255]]
    )


def test_a_row_a_picture(pixels):
    painted = pixels[::-1]
    mask = np.array([[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [1, 1, 1]]])  # patches of 2 by 2
    sheet = reconstructions(normalised(pixels), normalised(painted), mask, MEAN, STD)
    assert (sheet.shape, sheet.dtype) == ((2 * 6 + 2, 4 * 8 + 2, 3), np.uint8)
    for i in range(2):
        hidden = np.kron(mask[i], np.ones((2, 2), int))[..., None] > 0
        row = [sheet[2 + 6 * i :, 2 + 8 * j :][:4, :6] for j in range(4)]
        expected = (
            pixels[i],
            np.where(hidden, 128, pixels[i]),
            painted[i],
            np.where(hidden, painted[i], pixels[i]),
        )
        for found, wanted in zip(row, expected):
            np.testing.assert_array_equal(found, wanted)
    for edge in (sheet[:2], sheet[-2:], sheet[:, :2], sheet[:, -2:], sheet[6:8], sheet[:, 8:10]):
        assert (edge == 255).all()


def test_several_pictures_make_the_rows_that_each_makes():
    model = drawn("mae_vit_tiny_patch16", **MAE)
    images = np.random.default_rng(0).normal(size=(2, 12, 10, 3)).astype(np.float32)
    pictures = [Picture(str(i), image, np.zeros((12, 10, 3))) for i, image in enumerate(images)]
    both, share = reconstruction_sheet(model, pictures)
    for i, picture in enumerate(pictures):
        alone, _ = reconstruction_sheet(model, [picture])
        row = both[14 * i : 14 * i + 16].astype(int)
        np.testing.assert_allclose(row, alone, atol=1)  # a level, where one is rounded otherwise
    assert share == pytest.approx(12 / 15)  # three of 3 x 5 patches are kept


@pytest.mark.parametrize(
    "painted, mask, message",
    [
        ((2, 4, 5, 3), (2, 2, 3), r"expected the same shape \(images, height, width, channels\)"),
        ((2, 4, 6, 3), (2, 6), r"mask is \(2, 6\); expected \(images, rows, columns\)"),
        ((2, 4, 6, 3), (2, 3, 3), "patches that divide images of shape"),
        ((2, 4, 6, 3), (1, 2, 3), "patches that divide images of shape"),
    ],
)
def test_shapes_that_do_not_fit(painted, mask, message):
    with pytest.raises(UserError, match=message):
        reconstructions(np.zeros((2, 4, 6, 3)), np.zeros(painted), np.zeros(mask), MEAN, STD)
