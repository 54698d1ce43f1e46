"""What is said of pictures is what the model says of each by itself."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.inference.forward import Forward
from vit_jax.inference.predict import Guess, Prediction, classifier, json_line, show, table
from vit_jax.models import Preprocessing

GREY = Preprocessing((0.5,) * 3, (0.25,) * 3)
MODELS = {
    "named": lambda: tiny.vit(class_names=tiny.NAMES),
    "grey": lambda: tiny.drawn("vit_tiny_patch16_224", GREY, **{**tiny.VIT, "in_chans": 1}),
    "distilled": lambda: tiny.vit(dist_token=True),
    "sigmoid": lambda: dataclasses.replace(tiny.vit(), probabilities="sigmoid"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The folder of a model whose classes have names."""
    place = tmp_path_factory.mktemp("converted") / "model"
    folder.save(place, MODELS["named"]())
    return place


def one_by_one(model, paths):
    """Logits of each picture, by `preprocess` and `apply`."""
    prep = model.preprocessing
    if model.module.in_chans == 1:
        prep = Preprocessing((0.5,), (0.25,))
    apply = jax.jit(model.module.apply)
    images = [vit_jax.preprocess(path, prep, model.module.img_size) for path in paths]
    return np.stack([apply({"params": model.params}, image[None])[0] for image in images])


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_each_picture_by_itself(pictures, name):
    model = MODELS[name]()
    found = vit_jax.predict(model, pictures, top_k=4, batch_size=3)
    paths = sorted(path for path in pictures.rglob("*") if path.is_file())
    assert [prediction.path for prediction in found] == paths
    logits = one_by_one(model, paths).astype(np.float64)
    if name == "sigmoid":
        expected = 1 / (1 + np.exp(-logits))
    else:
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.ptp(expected, axis=0).max() > 0.05  # the pictures are not all the same to it
    for prediction, shares in zip(found, expected, strict=True):
        best = np.argsort(-shares)[:4]
        assert [guess.index for guess in prediction.guesses] == best.tolist()
        found_shares = [guess.probability for guess in prediction.guesses]
        np.testing.assert_allclose(found_shares, shares[best], rtol=1e-5)
        names = [tiny.NAMES[i] for i in best] if name == "named" else [None] * 4
        assert [guess.name for guess in prediction.guesses] == names


def test_batches_and_order_are_of_no_effect_and_one_program_is_compiled(pictures):
    model = MODELS["named"]()
    expected = vit_jax.predict(model, pictures, batch_size=7)
    files = sorted((path for path in pictures.rglob("*") if path.is_file()), reverse=True)
    for batch_size, places in ((1, files), (4, files), (32, str(pictures / "*"))):
        found = vit_jax.predict(model, places, batch_size=batch_size)
        for one, other in zip(found, expected, strict=True):
            assert one.path == other.path
            for a, b in zip(one.guesses, other.guesses, strict=True):
                assert (a.index, a.name) == (b.index, b.name)
                assert a.probability == pytest.approx(b.probability, rel=1e-5)
    forward = classifier(model, 2, batch_size=3)
    assert [len(rows.paths) for rows in forward.over(files)] == [3, 3, 1]
    assert forward._apply._cache_size() == 1


def test_fewer_classes_than_are_asked_for(pictures):
    (found, *_) = vit_jax.predict(MODELS["named"](), pictures, top_k=100)
    assert sorted(guess.index for guess in found.guesses) == list(range(tiny.CLASSES))
    assert sum(guess.probability for guess in found.guesses) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (tiny.mae, "masked autoencoder paints.*vit-jax features"),
        (lambda: tiny.vit(num_classes=0), "no classifier.*vit-jax features"),
        (lambda: tiny.vit(global_pool="none"), "pools nothing.*vit-jax features"),
        (lambda: tiny.vit(head_bias=False), "head has no bias.*CLIP.*vit-jax features"),
    ],
)
def test_models_that_do_not_classify(pictures, make, message):
    with pytest.raises(UserError, match=message):
        vit_jax.predict(make(), pictures)


def test_a_head_without_bias_whose_classes_have_names_classifies(pictures):
    model = tiny.vit(head_bias=False, class_names=tiny.NAMES)
    assert len(vit_jax.predict(model, pictures)) == len(tiny.SHAPES)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"revision": "main"}, "'revision'.*it is open"),
    ],
)
def test_bad_numbers(pictures, options, message):
    with pytest.raises(UserError, match=message):
        vit_jax.predict(MODELS["named"](), pictures, **options)


def test_statistics_of_other_channels():
    with pytest.raises(UserError, match="images with 1 channels"):
        Forward(tiny.vit(in_chans=1), lambda *_: None)


def test_bad_pictures_stop_or_are_left_out(pictures, tmp_path):
    model, bad, cut = MODELS["named"](), tmp_path / "bad.png", tmp_path / "cut.jpg"
    bad.write_text("no picture")
    cut.write_bytes(next(pictures.rglob("5.jpeg")).read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot decode .*bad\.png: it is not a JPEG"):
        vit_jax.predict(model, [pictures, bad])
    said = []
    options = dict(skip_unreadable=True, report=said.append, batch_size=2)
    found = vit_jax.predict(model, [pictures, bad, cut], **options)
    assert found == vit_jax.predict(model, pictures, batch_size=2)
    text = "\n".join(said)
    assert "left out in all: 2 " in text and "bad.png" in text and "cut.jpg" in text
    with pytest.raises(UserError, match="none of 2 pictures can be read"):
        vit_jax.predict(model, [bad, cut], **options)


# The command.


def test_lines_of_json_and_the_table_say_the_same(converted, pictures, call):
    expected = vit_jax.predict(converted, pictures, top_k=2)
    code, out, err = call("predict", converted, pictures, "--top-k", 2, "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == [str(x.path) for x in expected]
    for line, prediction in zip(lines, expected, strict=True):
        assert [Guess(**guess) for guess in line["classes"]] == list(prediction.guesses)
    code, out, err = call("predict", converted, pictures, "--top-k", 2)
    assert (code, err) == (0, "")
    assert out == "".join(table(prediction) + "\n" for prediction in expected)
    assert "ein Fuß" in out or "a cat" in out


def test_mistakes_are_one_line(converted, pictures, tmp_path, call):
    (tmp_path / "bad.png").write_text("no picture")
    for arguments, message in (
        ([tmp_path / "nothing", pictures], "does not exist"),
        ([pictures, pictures], "neither the folder of a run"),
        ([converted, tmp_path / "x.png"], "no picture or folder at"),
        ([converted, tmp_path], "cannot decode"),
        ([converted, pictures, "--step", "best"], "not a run"),
        ([converted, pictures, "--params", "trained"], "not a run"),
        ([converted, pictures, "--revision", "x"], "converted already"),
        ([converted, pictures, "--top-k", "0"], "top_k is 0"),
        ([converted, pictures, "--colour"], "unknown argument"),
    ):
        code, out, err = call("predict", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("vit-jax: error: ") and err.count("\n") == 1 and message in err
    code, out, err = call("predict", converted, tmp_path, pictures, "--skip-unreadable", "--json")
    assert code == 0 and len(out.splitlines()) == len(tiny.SHAPES)
    assert "left out in all: 1 " in err


LONG = Prediction(
    Path("photos/" + "x" * 90 + "/\x1b[2J.jpg"),
    (Guess(3, "a name " * 20, 0.98765), Guess(12, None, 1e-9), Guess(7, "tab\tbed\udc80", 0.0)),
)


@pytest.mark.parametrize("width", [80, 40])
def test_lines_fit_a_terminal(width):
    lines = table(LONG, width).splitlines()
    assert max(map(len, lines)) == width
    assert lines[0].startswith("...xx") and lines[0].endswith("/?[2J.jpg")
    assert lines[1].startswith("   98.77 %   3  a name") and lines[1].endswith("...")
    assert lines[2:] == ["    0.00 %  12", "    0.00 %   7  tab?bed?"]


def test_nothing_is_cut_where_there_is_no_terminal():
    lines = table(LONG).splitlines()
    assert "x" * 90 in lines[0] and lines[1].endswith("a name " * 20)
    assert json.loads(json_line(LONG))["path"] == os.fspath(LONG.path)


def test_a_reader_may_stop_reading():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="ascii") as output:
        show(iter([LONG, LONG]), False, output)


def test_an_output_that_lacks_letters(tmp_path):
    prediction = Prediction(Path("x.jpg"), (Guess(1, "ein Fuß", 0.5),))
    with open(tmp_path / "out", "w", encoding="ascii") as output:
        show(iter([prediction]), False, output)
    assert "ein Fu?" in (tmp_path / "out").read_text(encoding="ascii")
