"""StableHLO programs: run where Flax and the models cannot be imported, and equal to the model."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import vit_jax
from tests.data.pictures import encode, natural
from tests.deploy import samples
from tests.inference import tiny
from vit_jax.deploy import stablehlo
from vit_jax.deploy.export import export_program
from vit_jax.errors import MissingFileError, UserError

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flax", "orbax", "optax") or name.startswith("vit_jax.models"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import json, pathlib, numpy as np, vit_jax
for folder in map(pathlib.Path, sys.argv[1:]):
    model = vit_jax.load_exported(folder / "program")
    for path in folder.glob("images*.npy"):
        np.save(folder / path.name.replace("images", "found"), model(np.load(path)))
print(sorted(name for name in sys.modules if "flax" in name or name == "vit_jax.models"))
"""


def ignore(text):
    pass


def run_elsewhere(top, names):
    """Folders by model: a program, images, and what another process made of them."""
    for name in names:
        model = samples.MODELS[name]()
        export_program(model, top / name / "program", platforms=["cpu"], report=ignore)
        for batch in samples.batches(name):
            np.save(top / name / f"images{batch}.npy", samples.pictures(model, batch))
    folders = [os.fspath(top / name) for name in names]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *folders], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    return top


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return run_elsewhere(tmp_path_factory.mktemp("programs"), samples.QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return run_elsewhere(tmp_path_factory.mktemp("others"), samples.OTHERS)


def check_equal(top, name):
    """Most are equal to the bit.

    Where XLA works out beforehand what depends on weights alone (standardised kernels, tables of
    biases), it rounds in another order.
    """
    model = samples.MODELS[name]()
    for batch in samples.batches(name):
        images = np.load(top / name / f"images{batch}.npy")
        found = np.load(top / name / f"found{batch}.npy")
        expected = samples.said(model, images)
        limit = 16 * samples.EPS * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", samples.QUICK)
def test_equals_the_model_without_flax(elsewhere, name):
    check_equal(elsewhere, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", samples.OTHERS)
def test_other_models_do_too(others, name):
    check_equal(others, name)


def test_what_is_said_beside_the_program(elsewhere):
    content = json.loads((elsewhere / "token" / "program" / "model.json").read_text())
    assert content["input"] == {
        "name": "images",
        "shape": ["batch", 8, 12, 3],
        "dtype": "float32",
        "pixels": "normalized",
    }
    output = {"name": "logits", "shape": ["batch", 6], "dtype": "float32"}
    assert content["output"] == {**output, "probabilities": "softmax"}
    assert content["class_names"] == list(tiny.NAMES)
    assert content["preprocessing"]["mean"] == list(tiny.PREPROCESSING.mean)
    assert content["versions"]["jax"] == jax.__version__
    program = elsewhere / "token" / "program" / content["file"]
    assert content["bytes"] == program.stat().st_size
    assert {path.name for path in program.parent.iterdir()} == {"model.json", content["file"]}
    model = vit_jax.load_exported(program.parent)
    assert (model.what, model.class_names, model.platforms) == ("logits", tiny.NAMES, ("cpu",))
    assert (model.input_shape, model.output_shape) == (("batch", 8, 12, 3), ("batch", 6))
    for name, what, shape in (
        ("no head", "pooled", ["batch", 8]),
        ("none", "tokens", ["batch", 7, 8]),
        ("mae", "tokens", ["batch", 7, 8]),
    ):
        content = json.loads((elsewhere / name / "program" / "model.json").read_text())
        assert (content["output"]["name"], content["output"]["shape"]) == (what, shape)


@pytest.mark.parametrize("pixels", ["normalized", "uint8"])
def test_a_picture_is_prepared_as_for_the_model(tmp_path, pixels):
    model = tiny.vit()
    (tmp_path / "photo.png").write_bytes(encode(natural(20, 31), "PNG"))
    export_program(model, tmp_path / "program", pixels=pixels, report=ignore)
    loaded = vit_jax.load_exported(tmp_path / "program")
    image = loaded.prepare(tmp_path / "photo.png")
    assert image.dtype == loaded.input_dtype == {"uint8": "uint8"}.get(pixels, "float32")
    prepared = vit_jax.preprocess(tmp_path / "photo.png", model.preprocessing, (8, 12))
    expected = samples.said(model, prepared[None])
    # A division by 255 and by std may be a product in one of the two: a rounding of each pixel.
    limit = 16 * samples.EPS * np.abs(expected).max()
    np.testing.assert_allclose(loaded(image[None]), expected, rtol=0, atol=limit)


def test_bfloat16_computes_as_the_model_does_and_holds_half(tmp_path):
    model = tiny.vit(depth=3, embed_dim=32)
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        content = export_program(model, tmp_path / dtype, dtype=dtype, report=ignore)
        sizes[dtype] = content["bytes"]
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert sizes["float32"] - sizes["bfloat16"] > 1.8 * count
    images = samples.pictures(model, 2)
    narrow = tiny.vit(depth=3, embed_dim=32, dtype="bfloat16")
    found = vit_jax.load_exported(tmp_path / "bfloat16")(images)
    assert found.dtype == np.float32
    # Both round to bfloat16 where they are told to; XLA may keep more digits between.
    expected = samples.said(narrow, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-7 * np.abs(expected).max())


def test_another_size_is_that_of_a_model_with_resampled_positions(tmp_path):
    model = tiny.vit()
    export_program(model, tmp_path / "program", img_size=(16, 20), report=ignore)
    images = np.random.default_rng(0).normal(size=(2, 16, 20, 3)).astype(np.float32)
    expected = samples.said(tiny.vit(dynamic_img_size=True), images)
    limit = 16 * samples.EPS * np.abs(expected).max()  # of the resampling, done beforehand
    found = vit_jax.load_exported(tmp_path / "program")(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def test_features_are_those_of_extract_features(tmp_path):
    model = tiny.vit(dist_token=True)
    picture = encode(natural(20, 31), "PNG")
    (tmp_path / "photo.png").write_bytes(picture)
    for which in ("pooled", "mean"):
        expected = vit_jax.extract_features(model, tmp_path / "photo.png", which, report=ignore)
        export_program(model, tmp_path / which, which=which, report=ignore)
        loaded = vit_jax.load_exported(tmp_path / which)
        found = loaded(loaded.prepare(picture)[None])
        assert loaded.what == which and loaded.class_names is None
        limit = 16 * samples.EPS * np.abs(expected.features).max()
        np.testing.assert_allclose(found, expected.features, rtol=0, atol=limit)


@pytest.mark.parametrize("backend", ["cudnn", "pallas"])
def test_attention_is_the_portable_one_on_every_platform(tmp_path, backend):
    """A model made for another chip's kernel; the kernels would be custom calls."""
    plain = tiny.vit()
    model = dataclasses.replace(plain, module=plain.module.clone(attn_backend=backend))
    export_program(model, tmp_path / "program", report=ignore)
    loaded = vit_jax.load_exported(tmp_path / "program")
    assert loaded.platforms == stablehlo.DEFAULT_PLATFORMS
    assert not {
        line
        for line in loaded.exported.mlir_module().splitlines()
        if "custom_call" in line and "shape_assertion" not in line
    }
    images = samples.pictures(model, 2)
    expected = samples.said(plain, images)
    limit = 16 * samples.EPS * np.abs(expected).max()
    np.testing.assert_allclose(loaded(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(format="tflite"), "unknown format 'tflite'"),
        (dict(platforms=["gpu"]), "unknown platform 'gpu': did you mean"),
        (dict(platforms=[]), "no platforms"),
        (dict(pixels="uint9"), "unknown pixels 'uint9': did you mean 'uint8'"),
        (dict(dtype="float8"), "unknown dtype 'float8'"),
        (dict(img_size=(1, 2, 3)), "img_size is (1, 2, 3); expected"),
        (dict(img_size=9), "image height 9 is not divisible by the patch (4 pixels)"),
        (dict(which="pooled", model="none"), "has no features 'pooled'"),
        (dict(format="onnx", platforms=["cpu"]), "an ONNX program has no platforms"),
    ],
)
def test_mistakes_are_said_and_leave_nothing(tmp_path, options, message):
    model = samples.MODELS[options.pop("model", "token")]()
    with pytest.raises(UserError) as caught:
        export_program(model, tmp_path / "program", report=ignore, **options)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_too_large_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"take [\d,]+ bytes and .* holds 1,000: use --dtype bfl"):
        export_program(tiny.vit(), tmp_path / "program", report=ignore)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_free_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is already there"):
        export_program(tiny.vit(), tmp_path, report=ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_cannot_be_run(tmp_path):
    with pytest.raises(MissingFileError, match=r"no exported program: model.json is missing"):
        vit_jax.load_exported(tmp_path)
    vit_jax.save_pretrained(
        tmp_path / "converted",
        tiny.vit().module,
        {"params": tiny.vit().params},
        preprocessing=tiny.PREPROCESSING,
    )
    with pytest.raises(MissingFileError, match="describes no exported program"):
        vit_jax.load_exported(tmp_path / "converted")
    folder = tmp_path / "program"
    export_program(tiny.vit(), folder, platforms=["tpu"], report=ignore)
    model = vit_jax.load_exported(folder)
    images = np.zeros((1, 8, 12, 3), np.float32)
    for given, message in (
        (images[:, :, :8], r"images have shape \(1, 8, 8, 3\); expected \(batch, 8, 12, 3\)"),
        (images[:0], r"images have shape \(0, 8, 12, 3\)"),
        (images.astype(np.uint8), "images are uint8; this program takes float32"),
        (images, "JAX runs on 'cpu', and the program is for tpu"),
    ):
        with pytest.raises(UserError, match=message):
            model(given)
    damaged = (folder / stablehlo.FILE).read_bytes()
    (folder / stablehlo.FILE).write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(UserError, match="is damaged, or of a version that this JAX does not read"):
        vit_jax.load_exported(folder)
    content = json.loads((folder / "model.json").read_text())
    for changed, message in (
        ({**content, "program": "onnx"}, "onnxruntime those of --format onnx"),
        ({**content, "format": 7}, "has format 7, expected 1"),
        ({k: v for k, v in content.items() if k != "input"}, "damaged: input is missing"),
        ({**content, "file": 7, "class_names": "all"}, "damaged: file, class_names is missing or"),
        ({**content, "output": {"name": "logits", "dtype": "float32"}}, "output.shape is missing"),
    ):
        (folder / "model.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            vit_jax.load_exported(folder)
