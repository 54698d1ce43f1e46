"""`vit-jax probe`, `confusion` and `calibration` on models of seconds, and how they fail."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import vit_jax
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.evaluation import predictions
from vit_jax.evaluation.few_shot import draw
from vit_jax.evaluation.probe import Choices
from vit_jax.inference import store
from vit_jax.inference.features import Features

DIGITS = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=32, depth=1, num_heads=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of seconds on the digits."""
    config = vit_jax.base_config()
    config.total_steps = 60
    config.model.name = "vit_tiny_patch16_224"
    config.model.update(mlp_ratio=2.0, global_pool="avg", class_token=False, **DIGITS)
    config.data.eval_transform = "resize"
    config.data.eval_batch_size = 360
    config.optim.lr = 5e-3
    config.schedule.warmup_steps = 5
    config.mesh.data, config.mesh.fsdp = 8, 1
    run = tmp_path_factory.mktemp("runs") / "digits"
    result = vit_jax.train(config, run)
    return run, result.metrics


@pytest.fixture(scope="module")
def found(trained):
    """Features of both splits, from the model itself."""
    model = vit_jax.open_model(trained[0], report=lambda _: None)
    encoder = model.module.clone(num_classes=0)
    apply = jax.jit(lambda x: encoder.apply({"params": model.params}, x))
    parts = []
    for split in ("train", "test"):
        source = vit_jax.data.open_source("digits", split)
        prep = model.preprocessing.for_channels(1)
        rows = [source[i] for i in range(len(source))]
        images = np.stack([vit_jax.preprocess(x["image"], prep, 8) for x in rows])
        labels = np.asarray([x["label"] for x in rows])
        parts.append(Features((), np.asarray(apply(images)), labels, source.class_names))
    return parts


def test_probes_of_a_run_are_those_of_scikit_learn(trained, found):
    """On the run's own data, by features that the model itself gives."""
    choices = Choices(neighbours=(1, 10), shots=(5,), seeds=2, l2=(1e-2,))
    said = []
    result = vit_jax.probe(trained[0], choices=choices, batch_size=100, report=said.append)
    assert said == ["features: pooled"] and (result.train, result.test) == (1437, 360)
    train, test = found
    one = 1 / 360  # what a picture counts whose neighbours or scores are equal up to rounding

    for k in (1, 10):
        plain = KNeighborsClassifier(k, metric="cosine").fit(train.features, train.labels)
        expected = plain.score(test.features, test.labels)
        assert result.plain_knn[k] == pytest.approx(expected, abs=2 * one)
    votes = KNeighborsClassifier(10, metric="cosine", weights=lambda x: np.exp((1 - x) / 0.07))
    votes.fit(train.features, train.labels)
    assert result.knn[10] == pytest.approx(votes.score(test.features, test.labels), abs=one)

    for seed in range(2):
        chosen = draw(train.labels, 10, 5, seed)
        x, mean = train.features[chosen].astype(float), train.features[chosen].mean(axis=0)
        deviation = x.std(axis=0) + 1e-5
        ridge = Ridge(alpha=1024.0, fit_intercept=False, solver="svd")
        rows = [
            np.hstack([(y - mean) / deviation, np.full((len(y), 1), 100.0)])
            for y in (x, test.features)
        ]
        ridge.fit(rows[0], 2.0 * np.eye(10)[train.labels[chosen]] - 1)
        expected = np.mean(ridge.predict(rows[1]).argmax(axis=1) == test.labels)
        assert result.few_shot[5].accuracies[seed] == pytest.approx(expected, abs=one)

    scaler = StandardScaler().fit(train.features)
    model = LogisticRegression(C=1 / (1e-2 * 1437), max_iter=1000)
    model.fit(scaler.transform(train.features), train.labels)
    expected = model.score(scaler.transform(test.features), test.labels)
    assert result.linear.accuracy == pytest.approx(expected, abs=2 * one)
    # What was learned in training is linear in these features.
    assert result.linear.accuracy > 0.6 and result.knn[10] > 0.6


def test_the_command_prints_both_forms(trained, call):
    arguments = ("probe", trained[0], "--methods", "knn", "few-shot", "--neighbours", 3)
    code, text, errors = call(*arguments, "--shots", 1, "--seeds", 2)
    lines = text.splitlines()
    assert code == 0 and lines[0].startswith("360 test examples by 1,437 of training, 10 classes")
    assert lines[1].startswith("3 nearest") and lines[2].startswith("1 shots") and len(lines) == 3
    assert max(map(len, lines)) <= 80 and "%|" not in errors and "\r" not in errors
    code, text, _ = call(*arguments, "--shots", 1, "--seeds", 2, "--json")
    result = json.loads(text)
    assert set(result) == {"features", "classes", "train", "test", "knn", "plain_knn", "few_shot"}
    assert f"{100 * result['knn']['3']:.2f} %" in lines[1]


def test_features_in_files_need_no_model(found, tmp_path, call):
    parts = {}
    for name, part in zip(("train", "test"), found):
        names = tuple(tmp_path / str(i) for i in range(len(part.labels)))
        parts[name] = tmp_path / f"{name}.npz"
        store.write(parts[name], dataclasses.replace(part, paths=names))
    given = ("--train", parts["train"], "--test", parts["test"], "--methods", "knn", "--json")
    code, text, _ = call("probe", *given)
    expected = vit_jax.probe(train=found[0], test=found[1], choices=Choices(methods=["knn"]))
    assert code == 0 and json.loads(text)["knn"]["20"] == expected.knn[20]
    for more, message in [
        ([tmp_path, *given], "leave out the model"),
        (["--train", parts["train"]], "come in pairs"),
        ([*given, "--data", "digits"], "give one of these"),
        ([*given, "--neighbours", 2000], "2000 neighbours, of 1437 examples"),
        (["--train", parts["train"], "--test", "nowhere.npz"], "no features at nowhere.npz"),
        (["--data", "digits"], "give a model too"),
    ]:
        code, text, errors = call("probe", *more)
        assert (code, text) == (2, "") and message in errors.splitlines()[-1], errors


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_features_are_read_as_they_were_written(tmp_path, suffix, shape):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    names = tuple(tmp_path / f"{i}.png" for i in range(6))
    features = rng.normal(size=(6, *shape)).astype(np.float32)
    labels = np.array([2, 0, 1, 1, 2, 0])
    for i, extra in enumerate([(), (labels, ("a", "b", "c"))]):
        given = Features(names, features, *extra)
        store.write(tmp_path / f"{i}{suffix}", given)
        back = store.read(tmp_path / f"{i}{suffix}")
        assert (back.paths, back.class_names) == (given.paths, given.class_names)
        np.testing.assert_array_equal(back.features, features)
        np.testing.assert_array_equal(back.labels, given.labels)
    (tmp_path / f"bad{suffix}").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="holds no features"):
        store.read(tmp_path / f"bad{suffix}")


# Confusion and calibration.


def test_a_run_is_judged_on_its_own_data(trained, tmp_path, call):
    run, metrics = trained
    kept, drawn = tmp_path / "kept.npz", tmp_path / "new/confusion.png"
    code, text, errors = call("confusion", run, "--picture", drawn, "--save", kept, "--json")
    result = json.loads(text)
    assert code == 0 and str(drawn) in errors and drawn.stat().st_size > 10_000
    # Pictures are normalised here in float32 on the host, there on the devices.
    assert result["accuracy"] == pytest.approx(metrics["top1"], abs=1 / 360)
    assert np.sum(result["matrix"]) == result["pictures"] == 360
    code, text, errors = call("calibration", kept, "--picture", tmp_path / "r.svg", "--json")
    scores = json.loads(text)
    assert code == 0 and (tmp_path / "r.svg").is_file()
    assert scores["accuracy"] == result["accuracy"]
    assert scores["nll"] == pytest.approx(metrics["loss"], rel=1e-3)
    code, text, _ = call("calibration", kept, "--fit-temperature", 0.5, "--bins", 10)
    assert code == 0 and "180 examples, 10 bins; temperature " in text
    code, text, _ = call("confusion", kept)
    assert code == 0 and text.startswith("360 pictures: accuracy ")
    again = vit_jax.confusion(run, "digits", split="test", batch_size=7, report=lambda _: None)
    np.testing.assert_array_equal(again.matrix, result["matrix"])


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    top = tmp_path_factory.mktemp("flowers")
    return tiny.write_pictures(top / "pictures")


def test_classes_are_found_by_name(flowers):
    """`dogs` and `cats` are the last and the third of the model's classes."""
    names = ("a", "b", "cats", "c", "d", "dogs")
    found = predictions.classify(tiny.vit(class_names=names), flowers, batch_size=3)
    folders = [Path(name).relative_to(flowers).parts[0] for name in found.names]
    expected = [names.index(name) for name in folders]
    assert found.labels.tolist() == expected and found.class_names == names
    model = tiny.vit(class_names=names)
    given = vit_jax.predict(model, flowers, top_k=1)
    assert [guess.guesses[0].index for guess in given] == found.predicted.tolist()


def test_nothing_is_guessed_about_classes(flowers):
    strange = tiny.vit(class_names=tiny.NAMES)
    with pytest.raises(
        UserError, match=r"classes that are not known: cats, dogs, 2 of 2.*in-order"
    ):
        predictions.classify(strange, flowers)
    with pytest.raises(UserError, match=r"2 classes and the model 6 outputs.*in-order"):
        predictions.classify(tiny.vit(), flowers)
    found = predictions.classify(tiny.vit(), flowers, in_order=True)
    assert set(found.labels) == {0, 1} and found.class_names[:3] == ("cats", "dogs", "2")


def test_pictures_that_cannot_be_decoded(flowers, tmp_path):
    names = ("cats", "dogs", "c", "d", "e", "f")
    bad = tiny.write_pictures(tmp_path / "more")
    (bad / "cats/bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot decode .*bad\.png"):
        predictions.classify(tiny.vit(class_names=names), bad)
    said = []
    found = predictions.classify(
        tiny.vit(class_names=names), bad, skip_unreadable=True, report=said.append
    )
    assert len(found.labels) == len(tiny.SHAPES) and "bad.png" in said[0]
    whole = predictions.classify(tiny.vit(class_names=names), flowers)
    np.testing.assert_allclose(found.logits, whole.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(methods=["k"]), "unknown method 'k'"),
        (dict(neighbours=[0]), r"neighbours is \(0,\)"),
        (dict(temperature=0.0), "temperature is 0.0"),
        (dict(shots=[0]), r"shots is \(0,\)"),
        (dict(seeds=0), "seeds is 0"),
        (dict(shot_l2=[]), r"shot_l2 is \(\)"),
        (dict(l2=[-1.0]), r"l2 is \(-1.0,\)"),
        (dict(validation=1.0), "a share of 1.0"),
    ],
)
def test_choices_are_checked_before_anything_is_computed(options, message):
    with pytest.raises(UserError, match=message):
        vit_jax.probe("nowhere", "nothing", choices=Choices(**options))


def test_errors_are_one_line(flowers, tmp_path, call, monkeypatch):
    names = ("cats", "dogs", "c", "d", "e", "f")
    folder.save(tmp_path / "vit", tiny.vit(class_names=names))
    folder.save(tmp_path / "mae", tiny.mae())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    (tmp_path / "folder.png").mkdir()
    data = ("--data", flowers)
    for arguments, message in [
        (("confusion", "vit"), "no data is given, and the model is not a run's"),
        (("confusion", "vit", "--data", "nowhere"), "no picture or folder at 'nowhere'"),
        (("confusion", "vit", *data, "--split", "val"), "has no split 'val'"),
        (("confusion", "vit", "--data", flowers / "cats"), "do not lie in a folder a class"),
        (("confusion", "mae", *data), "a masked autoencoder paints pictures"),
        (("confusion", "vit", *data, "--save", "there.npz"), "already there"),
        (("confusion", "vit", *data, "--picture", "x.bmp"), "expected one of .png, .svg, .pdf"),
        (("confusion", "nowhere", "--picture", "folder.png"), "cannot write folder.png"),
        (("calibration", "nowhere", "--picture", "there.npz/x.png"), "cannot write there.npz"),
        (("calibration", "vit", *data, "--bins", "0"), "0 bins"),
        (("calibration", "vit", *data, "--fit-temperature", "2"), "a share of 2.0"),
        (("calibration", "nowhere", *data), "nowhere"),
        (("calibration", "nowhere", *data, "--fit-temperature", "1"), "a share of 1.0"),
    ]:
        code, text, errors = call(*arguments)
        assert (code, text) == (2, ""), (arguments, errors)
        assert message in errors.splitlines()[-1] and "Traceback" not in errors, (arguments, errors)
