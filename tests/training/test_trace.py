"""Where the time goes, and a trace that the reader of TensorBoard's profile page takes."""

import contextlib
import time

import jax
import pytest

import vit_jax
from tests.training import tiny
from vit_jax.errors import UserError
from vit_jax.training import metrics
from vit_jax.training.resolve import resolve
from vit_jax.training.stopwatch import Stopwatch
from vit_jax.training.trace import Trace

pytestmark = pytest.mark.slow


def test_parts_add_up_to_the_time_that_passed(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    watch = Stopwatch()
    assert watch.read(4) == {}  # it stands still
    now += 1000
    watch.start(4)
    assert watch.read(4) == {}  # no step has ended
    for _ in range(3):
        with watch.of("input"):
            now += 2
        now += 5
    assert watch.read(7) == {"step_seconds": 7, "input_seconds": 2}
    with watch.of("checkpoint"):
        now += 50
    now += 3
    assert watch.read(10) == {"step_seconds": 4, "input_seconds": 1, "checkpoint_seconds": 50}
    watch.start(10)
    now += 8
    assert watch.read(12) == {"step_seconds": 4, "input_seconds": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.get_config()
    config.update(total_steps=6, eval_every_steps=3, profile=(2, 4))
    config.model.depth = 1
    vit_jax.train(config, workdir)
    return workdir


def test_a_run_says_where_its_time_went(run):
    lines = [line for line in metrics.read_metrics(run) if line["split"] == "train"]
    assert "step_seconds" not in lines[0]  # the first step is not like the others
    assert all(0 <= line["input_seconds"] <= line["step_seconds"] for line in lines[1:])
    batch = tiny.get_config().data.batch_size
    assert all(line["images_per_second"] == batch / line["step_seconds"] for line in lines[1:])
    # What comes after a step is in the line of the next one.
    assert [line["step"] for line in lines if "evaluation_seconds" in line] == [4]
    assert [line["step"] for line in lines if "checkpoint_seconds" in line] == [4]


def test_the_trace_holds_the_steps_that_were_asked_for(run):
    (file,) = (run / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = {dict(event.stats).get("step_num") for event in events if event.name == "train"}
    assert steps == {2, 3, 4}


@pytest.mark.parametrize("begin, end, told", [(1, 9, "2 to 4"), (3, 9, "3 to 4"), (1, 3, "2 to 3")])
def test_it_says_which_steps_it_has(tmp_path, monkeypatch, begin, end, told):
    """Of a run that was resumed within those asked for, or ended there."""
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    said = []
    with contextlib.closing(Trace((2, 4), tmp_path, said.append)) as trace:
        for number in range(begin, end + 1):
            with trace.step(number, lambda: 0):
                pass
    assert said == [f"trace of steps {told}: {tmp_path / 'tensorboard'}"]


def test_a_run_that_is_past_them_says_so(run, capsys):
    """The resumed run of the fixture: no second trace is written, and one sentence says why."""
    config = tiny.get_config()
    config.update(total_steps=6, eval_every_steps=3, profile=(2, 4))
    config.model.depth = 1
    vit_jax.train(config, run)
    assert "config.profile=(2, 4): the run goes on after step 6, so nothing is recorded now" in (
        capsys.readouterr().out
    )
    assert len(list((run / "tensorboard" / "plugins" / "profile").glob("*"))) == 1


@pytest.mark.parametrize("made, told", [(0, 0), (3, 0), (4, 1)])
def test_only_where_all_of_them_are_past(tmp_path, made, told):
    said = []
    Trace((2, 4), tmp_path, said.append, made)
    assert len(said) == told


def test_steps_that_there_are_not(tmp_path):
    config = tiny.get_config()
    config.update(total_steps=6, profile=(5, 7))
    with pytest.raises(UserError, match=r"profile is \(5, 7\), and the run has 6 steps"):
        resolve(config, 100, 10)


def test_steps_that_make_no_sense(tmp_path):
    for wrong in ((4, 2), (0, 3), 5, (1, 2, 3), "2,4"):
        config = tiny.get_config()
        config.profile = wrong
        with pytest.raises(UserError, match=r"profile is .*expected None or \(first step, last"):
            vit_jax.train(config, tmp_path)
