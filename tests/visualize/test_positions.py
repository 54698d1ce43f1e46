"""Cosines of position embeddings."""

import numpy as np
import pytest

from tests.visualize.tiny import GRID, cells, vit
from vit_jax.errors import UserError
from vit_jax.visualize import position_table, positions_figure, similarity
from vit_jax.visualize.positions import mosaic


def of(model):
    return similarity(position_table(model.module, model.params))


@pytest.mark.parametrize(
    "options",
    [
        dict(reg_tokens=1),
        dict(no_embed_class=True),
        dict(pos_embed="learn_2d"),
        dict(pos_embed="sincos_1d"),
        dict(pos_embed="sincos_2d_table"),
    ],
)
def test_symmetric_with_ones_on_the_diagonal(options):
    found = of(vit(**options))
    assert found.shape == (*GRID, *GRID)
    flat = found.reshape(15, 15)
    np.testing.assert_allclose(flat, flat.T, atol=1e-15)
    np.testing.assert_allclose(np.diag(flat), 1, atol=1e-12)
    assert np.abs(flat).max() <= 1 + 1e-12


def test_of_sincos_depends_on_rows_and_columns_apart_alone():
    """cos a cos b + sin a sin b = cos(a - b): the mean of cos(w d) over the frequencies."""
    model = vit(pos_embed="sincos_2d", embed_dim=16)
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    apart = [np.arange(side)[:, None] - np.arange(side) for side in GRID]
    rows, columns = (np.cos(d[..., None] * frequencies).mean(axis=-1) for d in apart)
    expected = 0.5 * rows[:, None, :, None] + 0.5 * columns[None, :, None, :]
    np.testing.assert_allclose(of(model), expected, atol=1e-6)


def test_learned_rows_of_patches_are_taken_and_those_in_front_are_not():
    model = vit(reg_tokens=2)
    table = model.params["pos_embed"]["table"][0]
    assert len(table) == 3 + 15
    np.testing.assert_array_equal(
        position_table(model.module, model.params), table[3:].reshape(*GRID, 16)
    )
    a, b = table[3 + 5 + 2], table[3 + 10 + 4]  # row 1, column 2, and row 2, column 4
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(of(model)[1, 2, 2, 4], cosine, rtol=1e-5)


def test_what_has_no_similarity():
    rotary = vit(pos_embed="none", rope="axial")
    with pytest.raises(UserError, match=r"no position embeddings .* rotates .*rope='axial'"):
        position_table(rotary.module, rotary.params)
    table = np.ones((2, 3, 4))
    table[1, 2] = 0
    with pytest.raises(UserError, match="row 1, column 2 is zero"):
        similarity(table)


def test_each_tile_is_where_its_patch_is():
    """Rendered: the brightest cell of a tile is at the tile's own place."""
    own = np.eye(15).reshape(*GRID, *GRID)
    sheet = mosaic(own)
    assert sheet.shape == (3 * 4 - 1, 5 * 6 - 1)
    for i, j in np.ndindex(*GRID):
        tile = sheet[4 * i : 4 * i + 3, 6 * j : 6 * j + 5]
        assert np.argwhere(tile == 1).tolist() == [[i, j]]
    assert np.isnan(sheet[3]).all() and np.isnan(sheet[:, 5]).all()
    figure = positions_figure(own, "title")
    seen = cells(figure, figure.axes[0], sheet.shape)
    bright = {tuple(x) for x in np.argwhere(seen[..., 0] > seen[..., 2] + 0.5).tolist()}  # yellow
    assert bright == {(5 * i, 7 * j) for i, j in np.ndindex(*GRID)}
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == list("01234")
