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
from vit_jax.training import monitor
from vit_jax.training.checkpoint import restore, saved_steps
from vit_jax.training.metrics import read_metrics
from vit_jax.training.preemption import Preemption


@pytest.fixture
def config(monkeypatch):
    """A run of twelve updates that takes a second."""
    return linear.use(tiny.get_config(), monkeypatch)


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
    config.mesh.update(data=2, fsdp=2, tensor=2)
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


def test_an_evaluation_that_a_signal_put_off_is_made_up_for(config, tmp_path, monkeypatch):
    vit_jax.train(config, tmp_path / "reference")
    with monkeypatch.context() as patch:
        answers = iter([False] * 6 + [True])  # before the first step, and after each
        patch.setattr(Preemption, "decided", lambda self, seen: next(answers))
        stopped = vit_jax.train(config, tmp_path / "run")
    assert (stopped.completed, stopped.step, stopped.metrics) == (False, 6, None)
    assert processes.lines(tmp_path / "run", "test") == []
    vit_jax.train(config, tmp_path / "run")
    for split in ("train", "test"):
        lines = [processes.lines(tmp_path / name, split) for name in ("run", "reference")]
        assert lines[0] == lines[1]


def test_told_to_stop_before_the_first_step(config, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "decided", lambda self, seen: True)
        stopped = vit_jax.train(config, tmp_path)
    assert (stopped.completed, stopped.step, stopped.checkpoint) == (False, 0, None)
    assert "checkpoint: none yet" in capsys.readouterr().out
    assert vit_jax.train(config, tmp_path).completed


@pytest.fixture
def folder(config, tmp_path):
    """A folder of sixteen pictures, one of which is broken."""
    for split in ("train", "test"):
        for index in range(16):
            path = tmp_path / "images" / split / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * index).save(path)
    (tmp_path / "images" / "train" / "a" / "04.png").write_bytes(b"not a picture")
    config.data.source = f"folder:{tmp_path / 'images'}"
    config.data.update(batch_size=16, eval_batch_size=8)
    config.update(total_steps=3, accumulate_steps=1, eval_every_steps=None)
    config.schedule.warmup_steps = None
    return config


def test_a_broken_picture_stops_the_run(folder, tmp_path):
    with pytest.raises(data.DecodeError, match=r"train/a/04\.png"):
        vit_jax.train(folder, tmp_path / "run")


def test_skipped_pictures_are_counted_each_epoch(folder, tmp_path, capsys):
    folder.data.on_error = "skip"
    vit_jax.train(folder, tmp_path / "run")
    printed = capsys.readouterr().out
    for epoch in (1, 2, 3):
        assert f"epoch {epoch}: 1 of 16 images could not be decoded and were skipped" in printed
    assert [line["skipped"] for line in processes.lines(tmp_path / "run", "train")] == [1, 1, 1]


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
