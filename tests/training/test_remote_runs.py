"""Whole runs with an object store as their workdir, killed and resumed, read by others, shared.

The run that they are compared with is on a disk and was never killed.
"""

import pytest

from tests.training import processes
from tests.training.test_resume import LAST, assert_same_run
from vit_jax import storage
from vit_jax.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow


def test_killed_while_it_saves_and_resumed(place, uninterrupted):
    process = processes.start_train(place)
    sixth = storage.path(place) / "checkpoints" / "6"
    assert processes.wait_until(lambda: sixth.is_dir(), process)
    processes.kill(process)
    left = saved_steps(sixth.parent)
    assert left in ([3], [3, 6])
    done = {line["step"] for line in processes.lines(place, "train")}
    assert set(range(1, left[-1] + 1)) <= done  # nothing before the checkpoint was lost

    output = processes.train(place)
    assert f"resuming after step {left[-1]}" in output
    assert f"checkpoint: {place}/checkpoints/{LAST}" in output
    assert_same_run(storage.path(place), uninterrupted)
    knn = ("knn", "--config", processes.TINY, "--config.ema_decay=0.0", "--neighbours", "10")
    for command, result in (
        (lambda run: ("eval", "--workdir", run), f"step {LAST}, test, 360 examples: accuracy"),
        (lambda run: (*knn, f"--config.init_from={run}"), "360 of test by 1,437 of the training:"),
    ):
        said = [processes.finish(processes.start(*command(run))) for run in (place, uninterrupted)]
        ours, theirs = (text[text.index(result) :] for text in said)  # TensorStore talks before it
        assert ours == theirs
        assert "%" in ours


def test_two_processes_share_it(place, uninterrupted):
    """Each writes its part of a checkpoint and reads its part; only the first writes the rest."""

    def start(*overrides, **options):
        return processes.start_train(place, "mesh.data=1", "mesh.fsdp=2", *overrides, **options)

    for killed in (True, False):
        pair = processes.start_two(start, f"total_steps={LAST}", "checkpoint.every_steps=3")
        if killed:
            sixth = storage.path(place) / "checkpoints" / "6" / "commit_success.txt"
            assert processes.wait_until(sixth.exists, pair[0], timeout=240)
            for process in pair:
                processes.kill(process)
        else:
            outputs = [processes.finish(process) for process in pair]
            assert "resuming after step" in outputs[0]
    ours, theirs = processes.lines(place, "train"), processes.lines(uninterrupted, "train")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_bucket_that_there_is_not(place):
    scheme = place.split(":")[0]
    for command in ("train", "eval"):
        recipe = ("--config", processes.TINY) if command == "train" else ()
        process = processes.start(command, *recipe, "--workdir", f"{scheme}://nobodys/run")
        output = processes.finish(process, code=2)
        assert output.splitlines()[-1] == (
            f"vit-jax: error: {scheme}://nobodys/run: there is no bucket 'nobodys'; make it, or "
            "give another"
        )
        assert "Traceback" not in output
