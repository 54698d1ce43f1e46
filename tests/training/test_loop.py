import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from tests.objectives.toy_objective import ToyDistillation
from tests.training import linear, processes, tiny
from vit_jax import data, objectives
from vit_jax.data.pipeline import epoch_order
from vit_jax.training import monitor
from vit_jax.training.checkpoint import record_of, restore, saved_steps
from vit_jax.training.evaluation import Evaluator
from vit_jax.training.metrics import read_metrics
from vit_jax.training.preemption import Preemption
from vit_jax.training.signals import StopSignals


@pytest.fixture
def config(monkeypatch):
    """A run of twelve updates that takes a second."""
    return linear.use(tiny.get_config(), monkeypatch)


@pytest.fixture
def finished(config, tmp_path):
    """The folder of a finished run."""
    vit_jax.train(config, tmp_path)
    return tmp_path


def test_what_a_run_leaves_behind(config, tmp_path, capsys):
    result = vit_jax.train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert (result.step, result.completed) == (12, True)
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "12"
    assert result.metrics["loss"] == read_metrics(tmp_path / "run")[-1]["loss"]
    for text in ("fsdp", "GFLOPs", "data=8", "32 images an update", str(result.checkpoint)):
        assert text in printed
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["total_steps"], saved["model"]["num_classes"]) == (12, 10)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    lines = read_metrics(tmp_path / "run")
    assert [x["step"] for x in lines if x["split"] == "train"] == list(range(1, 13))
    assert [x["step"] for x in lines if x["split"] == "test"] == [6, 12]
    assert all(x["images_per_second"] > 0 for x in lines[-3:-1])
    # 2 accumulation steps of each update went through the objective's `extra`.
    assert result.state.extra["parts"] == 24


def test_evaluation_of_a_finished_run(config, tmp_path):
    final = vit_jax.train(config, tmp_path).metrics
    said = []
    assert vit_jax.evaluate(tmp_path, report=said.append) == pytest.approx(final, rel=1e-6)
    assert "step 12, test, 360 examples" in said[0]
    assert vit_jax.evaluate(tmp_path, "best") == pytest.approx(final, rel=1e-6)
    changed = vit_jax.evaluate(tmp_path, 9, ["data.eval_split=train", "mesh.fsdp=2"])
    assert changed["loss"] != final["loss"]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 5 .* one of 9, 12"):
        vit_jax.evaluate(tmp_path, 5)
    with pytest.raises(FileNotFoundError, match="no run in"):
        vit_jax.evaluate(tmp_path / "elsewhere")


def test_nan_stops_the_run_and_leaves_the_last_good_checkpoint(config, tmp_path):
    config.objective.nan_from = 8
    with pytest.raises(monitor.NonFiniteError) as error:
        vit_jax.train(config, tmp_path)
    assert "loss is nan at step 8" in str(error.value)
    assert str(tmp_path / "checkpoints" / "6") in str(error.value)
    assert saved_steps(tmp_path / "checkpoints") == [3, 6]
    assert all(np.isfinite(x).all() for x in processes.arrays(tmp_path, 6).values())


def test_nan_at_a_step_that_would_be_saved(config, tmp_path):
    config.objective.nan_from = 9
    with pytest.raises(monitor.NonFiniteError, match="loss is nan at step 9"):
        vit_jax.train(config, tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == [3, 6]


def test_a_run_of_another_config(config, tmp_path):
    vit_jax.train(config, tmp_path)
    config.optim.lr, config.seed, config.model.depth = 0.5, 1, 5
    config.mesh.fsdp = 2  # may change
    with pytest.raises(ValueError) as error:
        vit_jax.train(config, tmp_path)
    message = str(error.value)
    assert "optim.lr: 0.001 in the folder, 0.5 now" in message
    assert "seed: 0 in the folder, 1 now" in message
    assert "model.depth: 2 in the folder, 5 now" in message
    assert "mesh" not in message


def test_what_may_change_when_a_run_is_resumed(config, tmp_path):
    config.objective.nan_from = 8
    with pytest.raises(monitor.NonFiniteError):
        vit_jax.train(config, tmp_path)
    before = processes.arrays(tmp_path, 6)
    config.update(log_every_steps=2, eval_every_steps=4, accumulate_steps=1)
    config.mesh.update(data=2, fsdp=2, sequence=1, tensor=2)
    config.data.update(workers=0, cache=True, eval_batch_size=8)
    config.checkpoint.keep_last = 5
    with pytest.raises(monitor.NonFiniteError):  # the seventh step was made, the eighth stops it
        vit_jax.train(config, tmp_path)
    processes.assert_same_bits(processes.arrays(tmp_path, 6), before)
    steps = [line["step"] for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_other_data(config, tmp_path, monkeypatch):
    vit_jax.train(config, tmp_path)
    original = data.open_source

    def changed(*arguments):
        source = original(*arguments)
        source.fingerprint = "other"
        return source

    monkeypatch.setattr(data, "open_source", changed)
    with pytest.raises(ValueError, match="the training data is not that of the run"):
        vit_jax.train(config, tmp_path)


def test_a_metric_to_rank_by_that_there_is_not(config, tmp_path):
    config.checkpoint.best_metric = "los"
    with pytest.raises(ValueError, match="'los': did you mean 'loss'"):
        vit_jax.train(config, tmp_path)


def test_the_best_is_kept(config, tmp_path):
    config.eval_every_steps = 1
    config.checkpoint.update(every_steps=None, keep_last=1, keep_best=2, best_mode="max")
    vit_jax.train(config, tmp_path)
    losses = {x["step"]: x["loss"] for x in read_metrics(tmp_path) if x["split"] == "test"}
    best = sorted(losses, key=losses.get)[-2:]
    assert saved_steps(tmp_path / "checkpoints") == sorted({*best, 12})


@pytest.fixture
def signals():
    return StopSignals()


def metrics_of_checkpoints(workdir):
    """What the record of each checkpoint says, by step."""
    directory = workdir / "checkpoints"
    return {step: record_of(directory, step).metrics for step in saved_steps(directory)}


def test_a_signal_at_a_step_that_is_evaluated(config, tmp_path, monkeypatch):
    """Stopped there and resumed, the run keeps and says what one does that was not stopped.

    The loss falls, so the best by "max" are the first that are evaluated.
    """
    config.eval_every_steps = 2
    config.checkpoint.update(every_steps=None, keep_last=1, keep_best=2, best_mode="max")
    vit_jax.train(config, tmp_path / "reference")
    with monkeypatch.context() as patch:
        answers = iter([False, True])  # after each step
        patch.setattr(Preemption, "decided", lambda self, seen: next(answers))
        stopped = vit_jax.train(config, tmp_path / "run")
    assert (stopped.completed, stopped.step, stopped.metrics) == (False, 2, None)
    (metrics,) = metrics_of_checkpoints(tmp_path / "run").values()
    assert metrics == {"loss": processes.lines(tmp_path / "run", "test")[0]["loss"]}
    vit_jax.train(config, tmp_path / "run")
    ours, theirs = (metrics_of_checkpoints(tmp_path / name) for name in ("run", "reference"))
    assert ours == theirs and list(ours) == [2, 4, 12]
    for split in ("train", "test"):
        lines = [processes.lines(tmp_path / name, split) for name in ("run", "reference")]
        assert lines[0] == lines[1]


def test_a_signal_during_an_evaluation(config, tmp_path, monkeypatch, signals):
    """The evaluation is finished, the step saved, and no other step is made."""
    original = Evaluator.__call__

    def told_meanwhile(self, state):
        signals.told = True
        return original(self, state)

    monkeypatch.setattr(Evaluator, "__call__", told_meanwhile)
    config.checkpoint.update(every_steps=None, keep_best=0)
    stopped = vit_jax.train(config, tmp_path, signals)
    assert (stopped.completed, stopped.step) == (False, 6)
    (line,) = processes.lines(tmp_path, "test")
    assert metrics_of_checkpoints(tmp_path) == {6: {"loss": line["loss"]}}


@pytest.mark.parametrize("compiling", [False, True])
def test_told_to_stop_before_the_first_step(
    config, tmp_path, monkeypatch, capsys, signals, compiling
):
    with monkeypatch.context() as patch:
        answers = iter([False, True] if compiling else [True])
        patch.setattr(Preemption, "before_the_first_step", lambda self: next(answers))
        stopped = vit_jax.train(config, tmp_path)
    assert next(answers, None) is None
    assert (stopped.completed, stopped.step, stopped.checkpoint) == (False, 0, None)
    assert "checkpoint: none yet" in capsys.readouterr().out
    signals.told = True
    assert vit_jax.train(config, tmp_path, signals).step == 0
    assert vit_jax.train(config, tmp_path).completed


@pytest.fixture
def folder(config, tmp_path):
    """Three updates with a folder of sixteen pictures of two classes."""
    for split in ("train", "test"):
        for index in range(16):
            path = tmp_path / "images" / split / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * index).save(path)
    config.data.source = f"folder:{tmp_path / 'images'}"
    config.data.update(batch_size=16, eval_batch_size=8)
    config.update(total_steps=3, accumulate_steps=1, eval_every_steps=None)
    config.schedule.warmup_steps = None
    return config


@pytest.fixture
def a_broken_picture(tmp_path, folder):
    """One that every update sees."""
    path = tmp_path / "images" / "train" / "a" / "04.png"
    path.write_bytes(b"not a picture")
    return path


def test_a_broken_picture_stops_the_run(folder, tmp_path, a_broken_picture):
    with pytest.raises(data.DecodeError) as error:
        vit_jax.train(folder, tmp_path / "run")
    assert str(a_broken_picture) in str(error.value)
    assert 'data.on_error="skip"' in str(error.value)


def test_skipped_pictures_are_counted_each_epoch(folder, tmp_path, capsys, a_broken_picture):
    folder.data.on_error = "skip"
    vit_jax.train(folder, tmp_path / "run")
    printed = capsys.readouterr().out
    for epoch in (1, 2, 3):
        assert f"epoch {epoch}: 1 of 16 images could not be decoded and were skipped" in printed
    assert [line["skipped"] for line in processes.lines(tmp_path / "run", "train")] == [1, 1, 1]


def test_a_run_that_a_broken_picture_stopped_goes_on_without_it(folder, tmp_path):
    folder.data.batch_size = 8
    folder.checkpoint.every_steps = 1
    second = epoch_order(16, folder.seed, 0)[8]  # the first example of the second update
    path = sorted((tmp_path / "images" / "train").rglob("*.png"))[second]
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(data.DecodeError, match=path.name):
            vit_jax.train(folder, tmp_path / "run")
        assert saved_steps(tmp_path / "run" / "checkpoints") == [1]
    folder.data.on_error = "skip"
    result = vit_jax.train(folder, tmp_path / "run")
    assert (result.step, result.completed) == (3, True)
    lines = processes.lines(tmp_path / "run", "train")
    assert [line["step"] for line in lines] == [1, 2, 3]
    # An epoch has two updates.
    assert [line.get("skipped") for line in lines] == [None, 1, 0]


def test_an_evaluation_says_what_it_could_not_decode(folder, tmp_path, capsys):
    (tmp_path / "images" / "test" / "b" / "15.png").write_bytes(b"")
    with pytest.raises(data.DecodeError, match=r"b/15\.png"):
        vit_jax.train(folder, tmp_path / "run")
    folder.data.on_error = "skip"
    final = vit_jax.train(folder, tmp_path / "run").metrics
    line = "step 3, test, 15 of 16 examples, 1 could not be decoded: loss"
    assert line in capsys.readouterr().out
    assert [x["skipped"] for x in processes.lines(tmp_path / "run", "test")] == [1]
    said = []
    assert vit_jax.evaluate(tmp_path / "run", report=said.append) == pytest.approx(final, rel=1e-6)
    assert line in said[0]
    with pytest.raises(data.DecodeError, match=r"b/15\.png"):
        vit_jax.evaluate(tmp_path / "run", changes=["data.on_error=stop"])


def test_evaluation_with_data_of_other_classes(folder, tmp_path):
    vit_jax.train(folder, tmp_path / "run")
    message = (
        r"split 'test' of digits has 10 classes \(0, 1, 2 \.\.\.\), what the run in .* was trained "
        r"on 2 classes \(a, b\); expected the same"
    )
    with pytest.raises(ValueError, match=message):
        vit_jax.evaluate(tmp_path / "run", changes=["data.source=digits"])
    (tmp_path / "images" / "test" / "b").rename(tmp_path / "images" / "test" / "c")
    (tmp_path / "images" / "train" / "b").rename(tmp_path / "images" / "train" / "c")
    with pytest.raises(ValueError, match="label 1 is 'c' in the one and 'b' in the other"):
        vit_jax.evaluate(tmp_path / "run")


def test_an_evaluation_that_is_not_finite_says_so(config, tmp_path, capsys):
    config.objective.nan_evaluation = True
    final = vit_jax.train(config, tmp_path).metrics
    assert np.isnan(final["loss"])
    warning = "WARNING: loss is nan; trust no number of this evaluation"
    assert warning in capsys.readouterr().out
    said = []
    vit_jax.evaluate(tmp_path, report=said.append)
    assert warning in said[0]


@pytest.mark.parametrize(
    "change, message",
    [
        ("data.source=None", "data.source is None"),
        ("data.on_error=ignore", "data.on_error is 'ignore'"),
        ("data.eval_batch_size=0", "data.eval_batch_size is 0"),
        ("data.eval_batch_size=7", "data.eval_batch_size 7 is not divisible by 8"),
        ("data.eval_transform=resiz", "did you mean 'resize'"),
        ("total_epochs=3", "total_steps=12 and total_epochs=3"),
    ],
)
def test_an_evaluation_with_wrong_values(finished, change, message):
    with pytest.raises(ValueError) as error:
        vit_jax.evaluate(finished, changes=[change])
    assert message in str(error.value)


def test_without_a_batch_size_an_evaluation_takes_that_of_training(finished):
    assert vit_jax.evaluate(finished, changes=["data.eval_batch_size=None"]) == pytest.approx(
        vit_jax.evaluate(finished, changes=["data.eval_batch_size=32"])
    )


@pytest.mark.slow
def test_an_objective_with_more_to_it(tmp_path, monkeypatch):
    """More parameters, a teacher and its own evaluation: the loop is the same."""

    def build(module):
        return ToyDistillation(module)

    monkeypatch.setitem(objectives.OBJECTIVES, "toy", build)
    config = tiny.get_config()
    config.objective = {"name": "toy"}
    config.model.depth = 1
    config.checkpoint.update(best_metric="error", best_mode="min")
    config.update(total_steps=4, eval_every_steps=2)
    config.schedule.warmup_steps = 1
    result = vit_jax.train(config, tmp_path)
    assert result.metrics.keys() == {"error", "error_std"}
    assert result.state.extra["seen"] == 4 * 32
    assert result.state.params.keys() == {"student", "projection"}
    targets = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), result.state
    )
    state, _ = restore(tmp_path / "checkpoints", 4, targets)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), state, result.state))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_only_the_steps_after_the_one_before(tmp_path):
    processes.train(tmp_path)
    before = processes.arrays(tmp_path, 12)
    data = max((tmp_path / "checkpoints" / "12").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    output = processes.train(tmp_path)
    assert "the checkpoint of step 12 is damaged" in output
    assert "taking the checkpoint of step 9 instead" in output
    assert "Traceback" not in output
    processes.assert_same_bits(processes.arrays(tmp_path, 12), before)
    assert saved_steps(tmp_path / "damaged_checkpoints") == [12]


@pytest.mark.slow
def test_training_imports_neither_tensorflow_nor_torch(tmp_path):
    """With both installed, which the test checks first."""
    script = f"""
import importlib.util, sys
for name in ("tensorflow", "torch"):
    assert importlib.util.find_spec(name), f"{{name}} is not installed: nothing is tested"
import vit_jax
assert not {{"tensorflow", "torch", "grain", "orbax"}} & set(sys.modules)
from vit_jax.cli.main import main
assert main(["train", "--config", {str(processes.TINY)!r}, "--workdir", {str(tmp_path)!r},
             "--config.total_steps=2", "--config.schedule.warmup_steps=1"]) == 0
assert "grain" in sys.modules and "orbax" in sys.modules
assert not {{"tensorflow", "torch"}} & set(sys.modules), "imported"
"""
    environment = processes.environment(devices=1)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
