"""From a run to another library: train here, load there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.training import tiny
from vit_jax.cli.main import main
from vit_jax.errors import UserError
from vit_jax.training.trained import trained_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run on eight devices, with a running average."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.get_config()
    config.total_steps, config.eval_every_steps = 4, None
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    return workdir, vit_jax.train(config, workdir)


def test_parameters_are_the_average_or_those_trained(run):
    workdir, result = run
    for average, wanted in ((True, result.state.ema), (False, result.state.params)):
        model = trained_model(workdir, average=average, report=lambda text: None)
        for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, b)


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
