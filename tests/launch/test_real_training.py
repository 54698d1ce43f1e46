"""A real run on a stand-in VM: killed with its machine, made anew, resumed to its end."""

import pytest

from tests.launch.standin import Cloud
from tests.training import processes
from vit_jax.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow
LAST = 12


@pytest.fixture
def cloud(cloud, monkeypatch, tmp_path):
    """The stand-in, with the real `vit-jax` on its VMs."""
    for name, value in processes.environment(devices=1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STANDIN_REAL_JAX", "1")
    monkeypatch.setenv("PYTHONPATH", str(processes.TINY.parents[2]))
    folder = tmp_path / "real"
    real = Cloud(folder).set_up(vit_jax="real")
    monkeypatch.setenv("STANDIN", str(folder))
    monkeypatch.setenv("PATH", f"{folder}/bin:{cloud.folder}/bin:/usr/bin:/bin")
    yield real
    real.erase("mine")


def test_preempted_and_resumed_to_the_end(cloud, tpu):
    workdir = cloud.folder / "bucket" / "run"
    cloud.play("worker report", preempt=3)
    code, text, errors = tpu(
        "train", "mine", "--accelerator-type=v4-8", "--spot", "--package=vit_jax[tpu,gcs]",
        "--config", processes.TINY, "--workdir", workdir, "--restarts=1", poll=1,
    )  # fmt: skip
    assert code == 0, text + errors
    assert "1 devices (cpu), 1 of them on this worker" in text
    assert "JAX on mine computes on cpu" in errors
    assert "mine: PREEMPTED" in text and "[worker 0] resuming after step" in text
    assert max(saved_steps(workdir / "checkpoints")) == LAST
    assert len(processes.losses(workdir)) == LAST
