"""The loss curve does not depend on how a run is spread over devices and processes.

In float32 each sum taken in another order is off by a few units of 6e-8, and twelve updates hand
that on without making it much larger: 2e-7 was measured for the loss and the gradient's norm, the
bound is ten times that. That it is rounding and nothing else is shown in float64, where 4e-16 was
measured. (Parameters may differ by more: the gradient of the keys' biases is zero but for rounding,
and Adam divides it by its own size. The loss does not depend on them.)
"""

import os
import signal

import numpy as np
import pytest

from tests.training import processes
from vit_jax.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow
FLOAT32, FLOAT64 = 2e-6, 4e-15
STEPS = 12


def mesh(data, fsdp, tensor):
    return [f"mesh.data={data}", f"mesh.fsdp={fsdp}", f"mesh.tensor={tensor}"]


# Rows of a batch are spread over at most eight devices, in two micro-batches.
COMMON = ["data.batch_size=32", f"total_steps={STEPS}"]
DOUBLE = {"JAX_ENABLE_X64": "1"}


def run(workdir, sizes, devices, *overrides, **options):
    return processes.train(workdir, *COMMON, *mesh(*sizes), *overrides, devices=devices, **options)


def assert_same_numbers(workdir, reference, bound):
    for split, steps, names in (
        ("train", STEPS, ("loss", "gradient_norm")),
        ("test", STEPS // 6, ("loss", "top5")),
    ):
        ours, theirs = (processes.lines(folder, split) for folder in (workdir, reference))
        assert len(ours) == len(theirs) == steps
        for name in ("step", *names):
            np.testing.assert_allclose(
                [line[name] for line in ours], [line[name] for line in theirs], rtol=bound
            )


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one_device")
    run(workdir, (1, 1, 1), 1)
    return workdir


@pytest.fixture(scope="module")
def three_axes(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("three_axes")
    run(workdir, (2, 2, 2), 8)
    return workdir


@pytest.mark.parametrize("sizes", [(8, 1, 1), (4, 2, 1)])
def test_eight_devices_and_one(tmp_path, one_device, sizes):
    run(tmp_path, sizes, 8)
    assert_same_numbers(tmp_path, one_device, FLOAT32)


def test_three_axes_and_one_device(one_device, three_axes):
    assert_same_numbers(three_axes, one_device, FLOAT32)


def test_it_is_rounding(tmp_path):
    double = ["model.param_dtype=float64", "model.dtype=float64"]
    run(tmp_path / "one", (1, 1, 1), 1, *double, **DOUBLE)
    run(tmp_path / "eight", (2, 2, 2), 8, *double, **DOUBLE)
    assert_same_numbers(tmp_path / "eight", tmp_path / "one", FLOAT64)


def test_resume_on_another_mesh(tmp_path, three_axes):
    """A run goes on from the checkpoint of 2x2x2 devices on 8x1x1, and then on one."""
    process = processes.start_train(tmp_path, *COMMON, *mesh(2, 2, 2), devices=8)
    assert processes.wait_until(lambda: processes.steps_logged(tmp_path) >= 4, process)
    process.send_signal(signal.SIGTERM)
    processes.finish(process, code=75)
    first = max(saved_steps(tmp_path / "checkpoints"))
    output = run(tmp_path, (1, 1, 1), 1, "data.workers=1")
    assert f"resuming after step {first}" in output
    assert_same_numbers(tmp_path, three_axes, FLOAT32)


def start_two(workdir, *overrides):
    """Two processes of four devices each."""
    return processes.start_two(processes.start_train, workdir, *COMMON, *overrides, devices=4)


def test_two_processes(tmp_path, one_device):
    pair = start_two(tmp_path, *mesh(4, 2, 1))
    first, second = (processes.finish(process) for process in pair)
    assert_same_numbers(tmp_path, one_device, FLOAT32)
    assert "2 processes" in first and "accuracy" in first
    assert "accuracy" not in second  # one process reports


def test_two_processes_stop_together_and_go_back_together(tmp_path, one_device):
    """Any of them may be told to stop; all stop after the same step, and save.

    Parameters are split over both. Then the part of that checkpoint that only the second process
    wrote, and reads, is damaged: both go back to the checkpoint before.
    """
    pair = start_two(tmp_path, *mesh(1, 8, 1))
    assert processes.wait_until(lambda: processes.steps_logged(tmp_path) >= 4, pair[0])
    os.kill(pair[1].pid, signal.SIGTERM)
    for process in pair:
        processes.finish(process, code=75)
    stopped = max(saved_steps(tmp_path / "checkpoints"))
    assert 3 < stopped < STEPS

    state = tmp_path / "checkpoints" / str(stopped) / "state"
    for file in (state / "ocdbt.process_1" / "d").iterdir():
        file.write_bytes(b"")
    outputs = [processes.finish(process) for process in start_two(tmp_path, *mesh(1, 8, 1))]
    assert f"the checkpoint of step {stopped} is damaged" in outputs[0]
    assert "taking the checkpoint of step" in outputs[0]
    assert_same_numbers(tmp_path, one_device, FLOAT32)


def test_half_the_hosts_and_twice_as_many(tmp_path, one_device):
    """Two processes of two devices, then one, then four: the data position is one number."""

    def start(count):
        def one(*overrides):
            options = [*COMMON, *mesh(-1, 2, 1), *overrides]
            return processes.start_train(tmp_path, *options, devices=2)

        return processes.start_several(one, count) if count > 1 else [one()]

    def stop_after(steps, group):
        assert processes.wait_until(lambda: processes.steps_logged(tmp_path) >= steps, group[0])
        os.kill(group[-1].pid, signal.SIGTERM)
        for process in group:
            processes.finish(process, code=75)

    stop_after(3, start(2))
    stop_after(7, start(1))
    for process in start(4):
        processes.finish(process)
    assert_same_numbers(tmp_path, one_device, FLOAT32)
