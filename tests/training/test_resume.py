"""A run that was killed or told to stop and started again ends with the bits of one that was not.

Dropout, random augmentation, a running average and accumulation are on. The runs that are
interrupted take compiled programs from a cache, the other one compiles its own.
"""

import os
import random
import signal
import time

import pytest

from tests.training import processes
from vit_jax.training import run_folder
from vit_jax.training.checkpoint import record_of, saved_steps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimized")]
LAST = 12


def assert_same_run(workdir, reference):
    """Parameters, average and optimizer state have the same bits, the logs the same numbers."""
    ours, theirs = processes.arrays(workdir, LAST), processes.arrays(reference, LAST)
    assert {name.split(".")[0] for name in ours} == {"step", "params", "opt_state", "ema"}
    processes.assert_same_bits(ours, theirs)
    for split in ("train", "test"):
        assert processes.lines(workdir, split) == processes.lines(reference, split)
    records = [
        {
            step: record_of(folder / "checkpoints", step)
            for step in saved_steps(folder / "checkpoints")
        }
        for folder in (workdir, reference)
    ]
    assert records[0] == records[1]


def unfinished_saves(workdir):
    """Temporary folders of checkpoints that are being written."""
    directory = run_folder.checkpoints_dir(workdir)
    if not directory.exists():
        return []
    return [path for path in directory.iterdir() if not path.name.isdigit()]


def kill_when(workdir, happened, *overrides):
    """Runs until `happened()`, kills, and returns whether the run was killed in time."""
    process = processes.start_train(workdir, *overrides)
    in_time = processes.wait_until(happened, process)
    processes.kill(process)
    return in_time


def test_kill_at_any_moment(tmp_path, uninterrupted):
    # It does not come to a checkpoint, and before the first one all options may change.
    no_checkpoint = ("total_steps=1000000", "checkpoint.every_steps=None", "eval_every_steps=None")
    assert kill_when(tmp_path, lambda: processes.steps_logged(tmp_path) >= 2, *no_checkpoint)
    assert saved_steps(tmp_path / "checkpoints") == []  # it begins anew

    interrupted_saves = 0
    for _ in range(6):
        if kill_when(tmp_path, lambda: unfinished_saves(tmp_path)):
            # The save may have been completed between being seen and the kill.
            interrupted_saves += bool(unfinished_saves(tmp_path))
        if interrupted_saves == 2:
            break
    assert interrupted_saves, "no kill fell into a save"

    rng = random.Random(0)
    for _ in range(2):
        process = processes.start_train(tmp_path)
        time.sleep(rng.uniform(1.0, 4.0))
        processes.kill(process)

    processes.train(tmp_path)
    assert unfinished_saves(tmp_path) == []
    assert_same_run(tmp_path, uninterrupted)


def test_kill_right_after_a_save(tmp_path, uninterrupted):
    def saved_and_went_on():
        return saved_steps(tmp_path / "checkpoints") and processes.steps_logged(tmp_path) >= 5

    assert kill_when(tmp_path, saved_and_went_on)
    output = processes.train(tmp_path)
    assert "resuming after step" in output
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("number, workers", [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_signal_saves_and_says_resume_me(tmp_path, uninterrupted, number, workers):
    process = processes.start_train(tmp_path, f"data.workers={workers}")
    assert processes.wait_until(lambda: processes.steps_logged(tmp_path) >= 4, process)
    os.killpg(process.pid, number)  # as a terminal does it: data workers are told, too
    output = processes.finish(process, code=75)
    stopped = max(saved_steps(tmp_path / "checkpoints"))
    assert f"stopped after step {stopped}" in output
    assert len(processes.losses(tmp_path)) == stopped < LAST

    output = processes.train(tmp_path, "data.workers=0")  # another number may take over
    assert f"resuming after step {stopped}" in output
    ours, theirs = processes.arrays(tmp_path, LAST), processes.arrays(uninterrupted, LAST)
    processes.assert_same_bits(ours, theirs)
    for split in ("train", "test"):
        assert processes.lines(tmp_path, split) == processes.lines(uninterrupted, split)


def test_a_signal_before_training_has_begun(tmp_path):
    """Here while the recipe is read; the libraries take longer to load."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import os, signal\n"
        "from tests.training.tiny import get_config\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    output = processes.train(tmp_path / "run", config=recipe, code=75)
    assert "stopped after step 0" in output
    assert saved_steps(tmp_path / "run" / "checkpoints") == []


def test_a_finished_run_is_not_run_again(tmp_path, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_text()
    output = processes.train(uninterrupted)
    assert "accuracy" in output
    assert (uninterrupted / "metrics.jsonl").read_text() == before
