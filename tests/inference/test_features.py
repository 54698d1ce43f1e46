"""Features are what the head sees, or the tokens that a forward pass captures."""

import builtins
import dataclasses

import jax
import numpy as np
import pytest

import vit_jax
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.inference import store

POOLED = {
    "token": tiny.vit,
    "registers, mean": lambda: tiny.vit(reg_tokens=2, global_pool="avg"),
    "token and mean": lambda: tiny.vit(global_pool="token_avg"),
    "pre-logits": lambda: tiny.vit(representation_size=4),
    "distilled": lambda: tiny.vit(dist_token=True),
    "swin": tiny.swin,
    "resnet": tiny.resnet,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


def files(pictures):
    return sorted(path for path in pictures.rglob("*") if path.is_file())


def applied(model, pictures, **options):
    """What the module itself gives for all pictures."""
    images = [
        vit_jax.preprocess(path, model.preprocessing, model.module.img_size)
        for path in files(pictures)
    ]
    apply = jax.jit(lambda params, x: model.module.apply({"params": params}, x, **options))
    return apply(model.params, np.stack(images))


def close(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", POOLED)
def test_the_head_makes_logits_of_what_is_pooled(pictures, name):
    model = POOLED[name]()
    found = vit_jax.extract_features(model, pictures, batch_size=3)
    assert found.paths == tuple(files(pictures))
    heads = [model.params[x] for x in ("head", "head_dist") if x in model.params]
    rows = found.features if len(heads) == 2 else found.features[:, None]
    logits = [rows[:, i] @ head["kernel"] + head["bias"] for i, head in enumerate(heads)]
    close(np.mean(logits, axis=0).astype(np.float32), applied(model, pictures))


def test_tokens_are_those_of_a_forward_pass(pictures):
    model = tiny.vit(reg_tokens=2)
    _, seen = applied(model, pictures, capture=("features",))
    tokens = np.asarray(seen.features)
    for which, expected in (
        ("tokens", tokens),
        ("cls", tokens[:, 0]),
        ("mean", tokens[:, 3:].mean(axis=1)),
    ):
        close(vit_jax.extract_features(model, pictures, which).features, expected)


def test_swin_pools_the_mean(pictures):
    model = tiny.swin()
    pooled, mean, tokens = (
        vit_jax.extract_features(model, pictures, which).features
        for which in ("pooled", "mean", "tokens")
    )
    assert tokens.shape == (len(tiny.SHAPES), 16, 8)
    close(mean, pooled)
    close(tokens.mean(axis=1), pooled)


def test_a_masked_autoencoder_is_asked_for_all_patches(pictures):
    model = tiny.mae()
    encoder = dataclasses.replace(model, module=model.module.encoder_alone())
    found = vit_jax.extract_features(model, pictures, "tokens").features
    assert found.shape[1] == 1 + 2 * 3
    close(found, np.asarray(applied(encoder, pictures)))


@pytest.mark.parametrize(
    "make, which, choose",
    [
        (tiny.mae, "pooled", "'cls' or 'mean' or 'tokens'"),
        (tiny.swin, "cls", "'pooled' or 'mean' or 'tokens'"),
        (tiny.resnet, "tokens", "'pooled'"),
        (lambda: tiny.vit(class_token=False, global_pool="avg"), "cls", "'pooled' or 'mean'"),
        (tiny.vit, "pool", "did you mean 'pooled'"),
    ],
)
def test_features_that_a_model_has_not(pictures, make, which, choose):
    with pytest.raises(UserError, match=choose):
        vit_jax.extract_features(make(), pictures, which)


# Files.


@pytest.mark.parametrize("which", ["pooled", "tokens"])
def test_both_formats_hold_the_same(pictures, tmp_path, which):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = vit_jax.extract_features(tiny.vit(), pictures, which, output=tmp_path / "x.npz")
    assert found.class_names == ("cats", "dogs")
    folders = [path.relative_to(pictures).parts[0] for path in found.paths]
    assert [found.class_names[label] for label in found.labels] == folders
    store.write(tmp_path / "x.parquet", found)
    table = parquet.read_table(tmp_path / "x.parquet")
    flat = np.stack(table["features"].to_numpy())
    shape = store.json.loads(table.schema.metadata[b"shape"])
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["features"], found.features)
        np.testing.assert_array_equal(flat.reshape(-1, *shape), found.features)
        assert arrays["paths"].tolist() == table["path"].to_pylist() == list(map(str, found.paths))
        assert arrays["labels"].tolist() == table["label"].to_pylist() == found.labels.tolist()
        assert arrays["class_names"].tolist() == ["cats", "dogs"]
        assert table["class"].to_pylist() == folders


def test_the_command_writes_what_python_gives(pictures, tmp_path, call):
    model = tiny.vit()
    folder.save(tmp_path / "model", model)
    place, bad = tmp_path / "out/x.npz", tmp_path / "bad.png"
    bad.touch()
    command = ("features", tmp_path / "model", pictures, bad, "--output", place)
    code, out, err = call(*command, "--which", "mean", "--skip-unreadable", "--batch-size", 2)
    assert (code, out) == (0, ""), err
    assert "left out in all: 1 " in err and f"8: {place}" in err
    assert "\r" not in err and "%|" not in err
    with np.load(place) as arrays:
        assert set(arrays) == {"paths", "features"}  # one picture lies in no class's folder
        expected = vit_jax.extract_features(model, pictures, "mean")
        np.testing.assert_allclose(arrays["features"], expected.features, rtol=1e-5, atol=1e-6)
    for arguments, message in (
        (command, "already there"),
        ((*command[:-1], tmp_path / "x.csv"), "ends in '.csv': expected one of .npz, .parquet"),
        ((*command[:-1], tmp_path / "y.npz"), "cannot decode"),
        ((*command[:-1], tmp_path / "bad.png/y.npz", "--skip-unreadable"), "cannot write"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, "") and message in err.splitlines()[-1], arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "model", "out"]


def test_pyarrow_is_missed_before_anything_is_computed(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install vit_jax\[parquet\], or write .npz"):
        vit_jax.extract_features("no model", "no pictures", output=tmp_path / "x.parquet")
