"""ONNX programs: checked by onnx, run by onnxruntime, as near to float64 as JAX is itself."""

import dataclasses
import importlib.util
import json
import os
import sys

import jax
import numpy as np
import pytest

from tests.deploy import samples
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.deploy import onnx_file, onnx_worker
from vit_jax.deploy.export import export_program
from vit_jax.deploy.program import Options, build
from vit_jax.errors import UserError

LIBRARIES = all(importlib.util.find_spec(name) for name in onnx_file.NEEDED)
needs = pytest.mark.skipif(not LIBRARIES, reason="pip install vit_jax[onnx]")
BATCHES = (1, 2, 5)


def ignore(text):
    pass


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Programs of all kinds of models, by one process."""
    top, works = tmp_path_factory.mktemp("onnx"), []
    for name, make in samples.MODELS.items():
        works.append(top / name / "work")
        onnx_file.prepare(works[-1], top / name / "model.onnx", make(), Options())
    done = onnx_file.start(*works)
    assert not done.returncode, done.stderr
    return top


def run(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    return found


def in_float64(model, images):
    """The same model on the same numbers, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), model.params)
        wide = dataclasses.replace(model, params=params)
        return samples.said(wide, images.astype(np.float64))


@needs
@pytest.mark.slow
@pytest.mark.parametrize("name", samples.MODELS)
def test_as_near_to_float64_as_jax_is(converted, name):
    """Both round each operation, in other orders: errors of the same size, not the same."""
    model = samples.MODELS[name]()
    for batch in BATCHES if name in samples.EVERY_BATCH else (2,):
        images = samples.pictures(model, batch)
        exact = in_float64(model, images)
        ours = np.abs(samples.said(model, images) - exact).max()
        found = run(converted / name / "model.onnx", images)
        assert found.shape == exact.shape and found.dtype == np.float32
        assert np.abs(found - exact).max() <= 4 * ours + 4 * samples.EPS * np.abs(exact).max()


@needs
@pytest.mark.slow
def test_the_command_and_this_process(call, tmp_path):
    """The library that converts changes JAX while it works: it is not imported here."""
    import onnx

    folder.save(tmp_path / "model", tiny.vit(class_names=tiny.NAMES))
    before = set(sys.modules)
    program = tmp_path / "program"
    code, text, errors = call(
        "export", tmp_path / "model", "--format", "onnx", "--pixels", "uint8", "--output", program
    )
    assert code == 0, errors
    assert not {name for name in set(sys.modules) - before if name.startswith("jax2onnx")}
    assert "onnxruntime and JAX differ by" in text
    assert sorted(os.listdir(program)) == ["model.json", "model.onnx"]
    content = json.loads((program / "model.json").read_text())
    assert (content["program"], content["file"]) == ("onnx", "model.onnx")
    assert content["input"]["dtype"] == "uint8" and content["class_names"] == list(tiny.NAMES)
    proto = onnx.load(program / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == content["opset"]
    (given,), (out,) = proto.graph.input, proto.graph.output
    assert (given.name, out.name) == ("images", "logits")
    assert given.type.tensor_type.shape.dim[0].dim_param
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    mean, std = (np.float32(x) for x in (tiny.PREPROCESSING.mean, tiny.PREPROCESSING.std))
    expected = samples.said(tiny.vit(), (pixels / np.float32(255) - mean) / std)
    limit = 16 * samples.EPS * np.abs(expected).max()
    np.testing.assert_allclose(run(program / "model.onnx", pixels), expected, rtol=0, atol=limit)


@needs
@pytest.mark.slow
def test_large_weights_lie_beside_the_program(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    model = tiny.vit(embed_dim=32)
    content = export_program(model, tmp_path / "program", format="onnx", report=ignore)
    names = ["model.json", "model.onnx", "model.onnx.data"]
    assert sorted(os.listdir(tmp_path / "program")) == names
    sizes = [(tmp_path / "program" / name).stat().st_size for name in names[1:]]
    assert content["bytes"] == sum(sizes)
    images = samples.pictures(model, 2)
    found = run(tmp_path / "program" / "model.onnx", images)
    expected = samples.said(model, images)
    limit = 16 * samples.EPS * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@needs
@pytest.mark.parametrize("factor, expected", [(1, 0), (2, 0.5), (np.nan, np.nan)])
def test_what_differs_is_measured(tmp_path, factor, expected):
    """A program that gives its pictures back, beside a model that multiplies them."""
    import onnx

    program = build(tiny.vit(), Options())
    program = dataclasses.replace(program, function=lambda params, pictures: factor * pictures)
    shape = ["batch", *program.pictures(1).shape[1:]]
    given, out = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("images", "logits")
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["logits"])], "same", [given], [out]
    )
    opset = onnx.helper.make_opsetid("", onnx_worker.OPSET)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset]), tmp_path / "model.onnx")
    found = onnx_worker._difference(program, tmp_path / "model.onnx")
    np.testing.assert_equal(found, expected)


def test_what_differs_from_zeros_is_measured():
    zeros = np.zeros((2, 3), np.float32)
    assert onnx_worker._apart(zeros, zeros) == 0
    assert onnx_worker._apart(zeros + 3, zeros) == 3


@needs
def test_other_dtypes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"computes in bfloat16, .* give --dtype float32"):
        export_program(tiny.vit(dtype="bfloat16"), tmp_path / "x", format="onnx", report=ignore)
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jax2onnx" else there(name)
    )
    with pytest.raises(UserError, match=r'needs jax2onnx, .*: pip install "vit_jax\[onnx\]"'):
        export_program(tiny.vit(), tmp_path / "x", format="onnx", report=ignore)
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """Here for want of a model that it could read; the last line of what it says is shown."""
    monkeypatch.setattr(onnx_file, "check", lambda program: None)
    monkeypatch.setattr(onnx_file, "prepare", lambda work, *_: work.mkdir())
    with pytest.raises(UserError, match=r"cannot be written as ONNX \(FileNotFoundError"):
        export_program(tiny.vit(), tmp_path / "x", format="onnx", report=ignore)
    assert not list(tmp_path.iterdir())
