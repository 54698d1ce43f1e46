"""Files of all kinds, of all families; and what cannot be drawn."""

import dataclasses
import io
import sys

import numpy as np
import pytest
from PIL import Image

from tests.visualize.tiny import MAE, SWIN, drawn, texts_inside, vit
from vit_jax import create_model
from vit_jax.cli.visualize import KINDS as OFFERED
from vit_jax.errors import UserError
from vit_jax.objectives.mae import patch_statistics
from vit_jax.visualize import (
    components,
    kinds,
    pictures_figure,
    reconstruction_figure,
    to_pixels,
)
from vit_jax.visualize import draw as module
from vit_jax.visualize.draw import draw
from vit_jax.visualize.kinds import KINDS, Choices

OF_MODEL = ["filters", "filters_principal", "positions"]
OF_PICTURES = ["attention_distance", "pca"]


@pytest.fixture
def files(tmp_path):
    """Two pictures, of one name."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png"]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def draws(monkeypatch, tmp_path):
    """Draws without the global state of pyplot: names of the files, and what was reported.

    No title or label of any figure is cut off.
    """
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    usual = module.save_figure

    def save(figure, path):
        assert texts_inside(figure)
        return usual(figure, path)

    monkeypatch.setattr(module, "save_figure", save)

    outputs = []

    def names(model, files, *what, **choices):
        said = []
        output = tmp_path / "new" / f"{len(outputs)}"
        outputs.append(output)
        written = draw(model, files, output, what or ("all",), Choices(**choices), said.append)
        assert sorted(output.iterdir()) == sorted(written)
        assert [line for line in said if not line.startswith("left out: ")] == list(
            map(str, written)
        )
        for path in written:
            with Image.open(path) as picture:
                assert picture.format == "PNG" and min(picture.size) > 50
        left_out = [line for line in said if line.startswith("left out: ")]
        return sorted(path.stem for path in written), left_out

    return names


def made_for_a_gpu(model):
    """The same with a kernel that runs on no CPU and shows no weights."""
    return dataclasses.replace(model, module=model.module.clone(attn_backend="cudnn"))


def test_the_command_offers_what_there_is():
    assert (*KINDS, "all") == OFFERED


def test_all_of_a_plain_model(files, draws):
    names, left_out = draws(made_for_a_gpu(vit(reg_tokens=1)), files)
    each = [f"{i}_cat_{kind}" for i in (0, 1) for kind in ("attention_layer1", "rollout")]
    assert names == sorted([*each, *OF_MODEL, *OF_PICTURES])
    assert left_out == [
        "left out: a reconstruction needs a masked autoencoder, and this is a VisionTransformer"
    ]


def test_all_of_a_masked_autoencoder_whose_encoder_sees_every_patch(files, draws):
    names, left_out = draws(made_for_a_gpu(drawn("mae_vit_tiny_patch16", **MAE)), files[:1])
    each = ["cat_attention_layer1", "cat_reconstruction", "cat_rollout"]
    assert (names, left_out) == (sorted([*each, *OF_MODEL, *OF_PICTURES]), [])


def test_a_pooling_is_asked_unless_a_layer_is(files, draws):
    model = vit(class_token=False, global_pool="map", in_chans=1, num_classes=0)
    names, _ = draws(model, files[:1], "attention")
    assert names == ["cat_attention_pooling"]


def test_layer_head_and_foreground(files, draws):
    choices = dict(layer=0, heads=(1,), foreground=0.0)
    names, _ = draws(vit(), files[:1], "attention", "pca", "rollout", **choices)
    assert names == ["cat_attention_layer0", "cat_rollout_layer0", "pca_layer0"]


def test_without_pictures(draws):
    names, left_out = draws(vit(), [])
    assert names == OF_MODEL
    assert len(left_out) == 5 and "attention shows what a model makes of pictures" in left_out[0]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_are_of_pictures_alone_and_leave_nothing_behind(files, draws, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    draws(vit(), files[:1], "positions", "filters", "pca")
    shown = terminal.getvalue()
    assert "pca:" in shown and "positions:" not in shown and "filters:" not in shown
    assert "\x1b[A" not in shown  # no bar below another one
    assert not shown.rpartition("\r")[2] and shown.split("\r")[-2].isspace()


def test_a_swin_has_features_of_its_stages_and_filters(files, draws, monkeypatch):
    model = drawn("swin_tiny_patch4_window7_224", **SWIN)
    shown = []
    usual = components.features_figure

    def figure(pictures, places, title):
        shown.append(places)
        return usual(pictures, places, title)

    monkeypatch.setattr(kinds.components, "features_figure", figure)
    names, left_out = draws(model, files)
    assert names == ["filters", "filters_principal", "pca"]
    assert sum("no attention over the whole picture" in line for line in left_out) == 4
    sizes = [(place.name, place.stride, place.colors.shape) for place in shown[0]]
    # Of 20 by 12 pixels: the second map has a row more than fits.
    assert sizes == [("stage 0", (4, 4), (2, 5, 3, 3)), ("stage 1", (8, 8), (2, 3, 2, 3))]
    names, _ = draws(model, files, "pca", layer=2)
    assert names == ["pca_layer2"] and shown[1][0].stride == (8, 8)
    with pytest.raises(UserError, match="layer 3: the model has layers 0 to 2"):
        draws(model, files, "pca", layer=3)


def test_normalised_patches_get_their_own_mean_and_variance_back(files, draws, monkeypatch):
    """A decoder that answers zero paints each patch in its own mean."""
    model = drawn("mae_vit_tiny_patch16", **MAE)
    model.params["decoder"]["pred"]["kernel"][:] = 0
    model.params["decoder"]["pred"]["bias"][:] = 0
    seen = []

    def sheet(*arguments):
        seen.append(arguments)
        return np.zeros((12, 44, 3), np.uint8)

    monkeypatch.setattr(kinds, "reconstructions", sheet)
    for normalised in (False, True):
        draws(model, files[:1], "reconstruction", norm_pix_loss=normalised)
    (_, plain, *_), (images, painted, mask, *_) = seen
    assert not plain.any() and 0 < mask.mean() < 1
    patch, painted = images[0, 4:8, 2:4], painted[0, 4:8, 2:4]  # of the second row and column
    mean, _ = patch_statistics(patch.reshape(1, 1, -1))
    np.testing.assert_allclose(painted, np.full((4, 2, 3), mean[0, 0, 0]), atol=1e-5)


def test_columns_of_a_reconstruction_have_names():
    figure = reconstruction_figure(np.zeros((14, 4 * 12 + 2, 3), np.uint8), "title")
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["picture", "what is seen", "what is painted", "painted where masked"]
    np.testing.assert_allclose(axes.get_xticks(), [6.5, 18.5, 30.5, 42.5])  # of pixels 2 to 11, ...


@pytest.mark.parametrize("columns", [1, 3])
def test_a_long_title_has_several_lines(columns):
    """A picture's name may be long, and have no spaces."""
    picture = np.zeros((8, 10, 1), np.uint8)
    name = "IMG_20240101_" + "130059" * 12 + " and what comes after it"
    figure = pictures_figure([picture] * columns, ["a"] * columns, name)
    (title,) = (text for text in texts_inside(figure) if text.startswith("IMG"))
    assert "".join(title.split()) == "".join(name.split()) and "\n" in title


@pytest.mark.parametrize(
    "what, choices, message",
    [
        ("attention", dict(layer=2), "layer 2: the model has layers 0 to 1"),
        ("rollout", dict(layer=-1), "layer -1: the model has layers 0 to 1"),
        ("attention", dict(heads=(0, 2)), "head 2: the model has heads 0 to 1"),
        ("reconstruction", {}, "needs a masked autoencoder"),
        ("atention", {}, "did you mean 'attention'"),
        ("pca", dict(foreground=1e9), "choose another threshold"),
    ],
)
def test_what_is_asked_wrongly(files, draws, what, choices, message):
    with pytest.raises(UserError, match=message):
        draws(vit(), files, what, **choices)


def test_what_a_swin_does_not_have(files, draws):
    model = drawn("swin_tiny_patch4_window7_224", **SWIN)
    for what in ("attention", "rollout", "distance", "positions"):
        with pytest.raises(UserError, match=f"{what} cannot be drawn of a Swin .* choose pca"):
            draws(model, files, what)


def test_what_is_no_transformer(files, tmp_path):
    model = vit()
    other = create_model("resnetv2_50x1_bit")
    with pytest.raises(UserError, match=r"nothing to draw: attention .* no transformer"):
        draw(dataclasses.replace(model, module=other), files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_errors_of_files(files, draws, tmp_path, monkeypatch):
    model = vit()
    with pytest.raises(UserError, match="pca shows at most 64"):
        draws(model, files * 33, "pca")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png"):
        draws(model, [tmp_path / "broken.png"], "pca")
    with pytest.raises(UserError, match="cannot make the folder"):
        draw(model, [], files[0], ["filters"])
    with pytest.raises(UserError, match="written to a file system"):
        draw(model, [], "gs://bucket/there", ["filters"])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"figures need matplotlib .*vit_jax\[visualize\]"):
        draws(model, files, "pca")


def test_pictures_of_one_channel_are_those_that_the_model_gets(files):
    model = vit(in_chans=1)
    (picture,) = module.read_pictures(files[:1], model)
    assert picture.image.shape == picture.pixels.shape == (12, 10, 1)
    np.testing.assert_array_equal(to_pixels(picture.image, [0.5], [0.5]), picture.pixels)
