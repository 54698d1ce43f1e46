"""`from_pretrained` and `save_pretrained` from Python, without PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.convert import pretrained
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
    with pytest.raises(UserError, match=r"drawn anew: .*ls1/gamma"):
        pretrained.load(tmp_path / "out", init_values=1e-5)


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
