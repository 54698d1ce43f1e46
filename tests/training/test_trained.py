"""From a run to another library: train here, load there."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.training import tiny
from vit_jax.cli.main import main
from vit_jax.data import open_source
from vit_jax.deploy.export import export_checkpoint
from vit_jax.errors import UserError
from vit_jax.training import run_folder
from vit_jax.training.config import to_json
from vit_jax.training.trained import trained_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run on eight devices, with a running average."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.get_config()
    config.total_steps, config.eval_every_steps = 4, None
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    return workdir, vit_jax.train(config, workdir)


@pytest.mark.slow
def test_parameters_are_the_average_or_those_trained(run):
    workdir, result = run
    for average, wanted in ((True, result.state.ema), (False, result.state.params)):
        model = trained_model(workdir, average=average, report=lambda text: None)
        for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, b)


def test_predictions_of_a_run_are_those_of_its_evaluation(run, tmp_path):
    workdir, result = run
    source = open_source("digits", "test")
    examples = [source[i] for i in range(len(source))]
    for i, example in enumerate(examples):
        (tmp_path / f"{i:03}.png").write_bytes(example["image"])
    model = vit_jax.open_model(workdir, report=lambda text: None)
    assert model.class_names == source.class_names
    found = vit_jax.predict(model, tmp_path, top_k=10, batch_size=128)
    shares = [{x.index: x.probability for x in prediction.guesses} for prediction in found]
    losses = [-np.log(x[example["label"]]) for x, example in zip(shares, examples, strict=True)]
    assert np.mean(losses) == pytest.approx(result.metrics["loss"], rel=1e-5)
    assert all(x.name == source.class_names[x.index] for x in found[0].guesses)


def test_a_model_is_opened_wherever_it_is(run, tmp_path):
    workdir, _ = run
    quiet = dict(report=lambda text: None)
    assert vit_jax.open_model(workdir, which=3, **quiet).origin["step"] == 3
    output = tmp_path / "exported"
    export_checkpoint(workdir, output, "vit_jax", average=False, **quiet)
    trained = vit_jax.open_model(workdir, average=False, **quiet)
    model = vit_jax.open_model(str(output))
    assert model.class_names == trained.class_names
    for a, b in zip(*map(jax.tree.leaves, (model.params, trained.params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_configuration_says_of_pictures_and_probabilities(run, tmp_path):
    """The run's files with another configuration."""
    shutil.copytree(run[0], tmp_path / "run")
    said = []
    for transform, mode, crop_pct in (
        (None, "center", 0.9),
        ("resize", "squash", 1.0),
        ("resize_small(0.875)|center_crop", "center", 0.875),
        ("resize_pad", "center", 0.9),
    ):
        config = run_folder.read_config(tmp_path / "run")
        config.data.eval_transform, config.data.interpolation = transform, "bilinear"
        with config.unlocked():
            config.objective.loss = "sigmoid"
        (tmp_path / "run" / run_folder.CONFIG).write_text(to_json(config))
        model = vit_jax.open_model(tmp_path / "run", report=said.append)
        prep = model.preprocessing
        assert (prep.crop_mode, prep.crop_pct, prep.interpolation) == (mode, crop_pct, "bilinear")
        assert model.probabilities == "sigmoid"
    (told,) = (text for text in said if "eval_transform" in text)
    assert "resize_pad" in told and "crop_mode='center'" in told


def test_timm_loads_what_was_trained_here(run, tmp_path, capsys):
    pytest.importorskip("torch")
    import torch

    from vit_jax.convert.torch_libraries import import_library

    workdir, _ = run
    output = tmp_path / "timm"
    assert main(["export", str(workdir), "--format", "timm", "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    theirs = (
        import_library("timm", "this test")
        .create_model(f"local-dir:{output}", pretrained=True)
        .eval()
    )
    model = trained_model(workdir, report=lambda text: None)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = model.module.apply({"params": model.params}, jnp.asarray(images))
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_bad_input(run, tmp_path, capsys):
    workdir, _ = run
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for source, output, message in (
        (workdir, tmp_path / "full", "full is already there"),
        (tmp_path, tmp_path / "out", "neither the folder of a run"),
    ):
        arguments = ["export", str(source), "--format", "timm", "--output", str(output)]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="no checkpoint"):
        trained_model(workdir, which=77)
    for source, options, message in (
        (tmp_path, {}, "neither the folder of a run.*'full'"),
        (tmp_path / "nothing", {}, "does not exist"),
        (tmp_path, {"which": "best"}, "not a run with checkpoints"),
        (tmp_path, {"average": False}, "not a run with checkpoints"),
        (workdir, {"revision": "main"}, "revision='main' says how to read weights of others"),
        (workdir, {"model": "vit_base_patch16_224"}, "not 'vit_base_patch16_224'"),
        ("somebody/model", {}, "hf-hub:somebody/model"),
    ):
        with pytest.raises(UserError, match=message):
            vit_jax.open_model(source, report=lambda text: None, **options)
