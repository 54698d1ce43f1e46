"""`from_pretrained` and `save_pretrained` from Python, without PyTorch."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.convert import folder, pretrained
from vit_jax.errors import UserError

MODEL = dict(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
PREP = vit_jax.preprocessing("vit_base_patch16_clip_224")
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """A module and variables, none of them zero or one."""
    module = vit_jax.create_model("vit_base_patch16_224", **MODEL)
    shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.2, 0.3, leaf.shape), jnp.float32), shapes
    )
    return module, variables


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs))
    )


@pytest.mark.parametrize("format", ["vit_jax", "timm"])
def test_out_and_in_again(model, tmp_path, format):
    module, variables = model
    vit_jax.save_pretrained(tmp_path / "out", module, variables, format=format, preprocessing=PREP)
    again, loaded = vit_jax.from_pretrained(tmp_path / "out")
    assert vit_jax.pretrained_preprocessing(tmp_path / "out") == PREP
    assert same(loaded, variables)
    np.testing.assert_array_equal(again.apply(loaded, IMAGES), module.apply(variables, IMAGES))


def test_a_scanned_module_gives_the_same_logits(model, tmp_path):
    module, variables = model
    vit_jax.save_pretrained(tmp_path / "out", module, variables, preprocessing=PREP)
    scanned, loaded = vit_jax.from_pretrained(tmp_path / "out", scan=True)
    assert "blocks" in loaded["params"]["encoder"]
    np.testing.assert_allclose(
        scanned.apply(loaded, IMAGES), module.apply(variables, IMAGES), rtol=1e-5, atol=1e-5
    )


def test_other_classes_sizes_and_patches(model, tmp_path):
    module, variables = model
    vit_jax.save_pretrained(tmp_path / "out", module, variables, preprocessing=PREP)
    changed, report = pretrained.load(tmp_path / "out", num_classes=5, img_size=(32, 16))
    assert report.drawn == ("head/bias", "head/kernel")
    assert report.resampled == ("pos_embed/table",)
    assert changed.params["pos_embed"]["table"].shape == (1, 9, 16)
    _, report = pretrained.load(tmp_path / "out", img_size=32, patch_size=16)
    assert report.resampled == ("patch_embed/kernel",)
    _, report = pretrained.load(tmp_path / "out", num_classes=0)
    assert report.left_out == ("head/bias", "head/kernel")
    with pytest.raises(UserError, match=r"drawn anew: .*ls1/gamma") as error:
        vit_jax.from_pretrained(tmp_path / "out", init_values=1e-5)
    # What the caller can do: this function has no argument `drawn`.
    assert "If that is meant, say so" not in str(error.value)
    assert "leave the hyper-parameter that asks for this as the source has it" in str(error.value)
    assert "config.init_changes.drawn=('encoder/*',)" in str(error.value)


def test_what_only_changes_how_it_runs_changes_no_parameter(model, tmp_path):
    module, variables = model
    vit_jax.save_pretrained(tmp_path / "out", module, variables, preprocessing=PREP)
    again, loaded = vit_jax.from_pretrained(tmp_path / "out", drop_path_rate=0.1, dtype="bfloat16")
    assert same(loaded, variables)
    assert (again.drop_path_rate, again.dtype) == (0.1, "bfloat16")


def test_bad_input(model, tmp_path):
    module, variables = model
    vit_jax.save_pretrained(tmp_path / "out", module, variables, preprocessing=PREP)
    with pytest.raises(UserError, match="already there"):
        vit_jax.save_pretrained(tmp_path / "out", module, variables, preprocessing=PREP)
    with pytest.raises(UserError, match="num_classes"):
        vit_jax.from_pretrained(tmp_path / "out", num_clases=3)
    with pytest.raises(UserError, match="'vit_small_patch16_224'"):
        vit_jax.from_pretrained(tmp_path / "out", "vit_small_patch16_224")
    with pytest.raises(UserError, match="choose one of"):
        vit_jax.save_pretrained(
            tmp_path / "new", module, variables, format="onnx", preprocessing=PREP
        )
    other = module.clone(norm_eps=1e-3)
    with pytest.raises(UserError, match=r"norm_eps=0\.001"):
        vit_jax.save_pretrained(
            tmp_path / "new", other, variables, format="timm", preprocessing=PREP
        )
    assert not (tmp_path / "new").exists()


def paths_of(content, inside=()):
    for key, value in content.items():
        yield (*inside, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*inside, key))


def test_a_damaged_description(model, tmp_path):
    """Each key of model.json away, or of a value that is none: as before, or named."""
    vit_jax.save_pretrained(tmp_path / "out", *model, preprocessing=PREP)
    file = tmp_path / "out" / "model.json"
    whole = json.loads(file.read_text())
    before = folder.read_description(tmp_path / "out")[:2]
    refused = 0
    for path in paths_of(whole):
        for value in ("away", "64", None, [], {}, -1):
            content = json.loads(json.dumps(whole))
            parent = functools.reduce(lambda part, key: part[key], path[:-1], content)
            parent.pop(path[-1])
            parent.update({} if value == "away" else {path[-1]: value})
            file.write_text(json.dumps(content))
            try:
                module, preprocessing, _ = folder.read_description(tmp_path / "out")
            except UserError as error:
                # A contradiction between several is of "hyper_parameters" as a whole.
                named = path[-1] in str(error) or path[0] == "hyper_parameters"
                assert "model.json" in str(error) and named, (path, value)
                refused += 1
            else:
                default = value == "away" or path[0] == "hyper_parameters"
                assert default or (module, preprocessing) == before, (path, value)
    assert refused > 50


def test_a_description_of_other_parameters(model, tmp_path):
    vit_jax.save_pretrained(tmp_path / "out", *model, preprocessing=PREP)
    file = tmp_path / "out" / "model.json"
    content = json.loads(file.read_text())
    content["hyper_parameters"]["depth"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"12 differ, as encoder/blocks_2/.*missing there"):
        vit_jax.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float99", "int8", 32, [], "float8_e5m2"])
@pytest.mark.parametrize("format", ["vit_jax", "timm"])
def test_a_dtype_that_is_none(model, tmp_path, format, dtype):
    vit_jax.save_pretrained(tmp_path / "out", *model, format=format, preprocessing=PREP)
    with pytest.raises(UserError, match=r"param_dtype is .*; expected .*float32.*'source'"):
        vit_jax.from_pretrained(tmp_path / "out", param_dtype=dtype)


@pytest.mark.parametrize("format", ["vit_jax", "timm"])
def test_an_output_that_cannot_be_made(model, tmp_path, format, monkeypatch):
    module, variables = model
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        vit_jax.save_pretrained(
            tmp_path / "file" / "out", module, variables, format=format, preprocessing=PREP
        )

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        vit_jax.save_pretrained(
            tmp_path / "new" / "out", module, variables, format=format, preprocessing=PREP
        )
    assert not list((tmp_path / "new").iterdir())
