"""Two processes of which one fails alone: both end, soon, and the first says why.

The other one notices when its connections with the first break. Without that it would wait for ten
minutes in the middle of a step, or for twenty before a checkpoint.

With one device each: of several, one may wait for another of the same process, and then it is the
first one's heartbeats that are missed, after 100 seconds. (Not where process 0 fails: it listens
to the heartbeats.)
"""

import resource
import signal
import sys

import pytest
from PIL import Image

from tests.training import processes
from vit_jax.data.pipeline import epoch_order
from vit_jax.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow
SOON = 60  # seconds, on a busy machine; less than one was measured on an idle one
LAST = 200  # steps of a run of which one process is killed
HEARTBEATS = 100  # seconds without which JAX holds a process for dead
BATCH, PICTURES = 8, 64
OPTIONS = [
    f"data.batch_size={BATCH}",
    f"data.eval_batch_size={BATCH}",
    "accumulate_steps=1",
    "checkpoint.every_steps=6",
    "total_steps=1000",
]
SCRIPT = """
import sys
import vit_jax

vit_jax.train(vit_jax.load_config(sys.argv[1], sys.argv[3:]), sys.argv[2])
"""


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures for training and evaluation."""
    for split in ("train", "test"):
        for index in range(PICTURES):
            path = tmp_path / "images" / split / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), index).save(path)
    return tmp_path / "images"


def start_script(workdir, *overrides, **options):
    """A program of a user that calls `vit_jax.train`."""
    command = [sys.executable, "-c", SCRIPT, processes.TINY, workdir, *overrides]
    return processes.start_command(list(map(str, command)), **options)


def start_two(start, folder):
    return processes.start_two(
        start, folder.parent / "run", f"data.source=folder:{folder}", *OPTIONS, devices=1
    )


def end(pair, failing, code):
    """Waits until both have ended; returns what the failing one printed."""
    try:
        output = processes.finish(pair[failing], code, SOON)
        other = pair[1 - failing]
        other.communicate(timeout=SOON)
        assert other.returncode != 0
    finally:
        for process in pair:
            processes.kill(process)
    return output


def break_a_picture(folder, batch, process):
    """Breaks one that `process` is to read for a batch of the first epoch; returns its path."""
    place = BATCH * batch + BATCH // 2 * process
    files = sorted((folder / "train").rglob("*.png"))
    path = files[epoch_order(PICTURES, 0, 0)[place]]
    path.write_bytes(b"no picture")
    return path


@pytest.mark.parametrize(
    "start, failing, code", [(processes.start_train, 1, 2), (start_script, 0, 1)]
)
def test_a_picture_that_one_process_cannot_decode(folder, start, failing, code):
    path = break_a_picture(folder, batch=5, process=failing)
    pair = start_two(start, folder)
    processes.wait_until(lambda: processes.steps_logged(folder.parent / "run"), pair[failing])
    output = end(pair, failing, code)
    assert f"cannot decode {path}" in output
    assert 'data.on_error="skip" would' in output


def test_a_disk_that_is_full_for_one_process(folder):
    """Its limit stands for a disk: `checkpoints` is written to by both processes."""
    pair = start_two(processes.start_train, folder)
    assert processes.wait_until(lambda: processes.steps_logged(folder.parent / "run"), pair[0])
    resource.prlimit(pair[0].pid, resource.RLIMIT_FSIZE, (4096, 4096))
    output = end(pair, failing=0, code=2)
    assert "a checkpoint could not be written" in output


SHORT = (
    *(f"total_steps={LAST}", "checkpoint.every_steps=100"),
    *("data.eval_batch_size=32", "eval_every_steps=None"),
)


def start_short(workdir, **options):
    return processes.start_two(
        lambda *overrides: processes.start_train(workdir, *SHORT, *overrides, **options)
    )


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    """The folder of a run that compiles everything itself."""
    workdir = tmp_path_factory.mktemp("whole")
    for process in start_short(workdir, cache=False):
        processes.finish(process)
    return workdir


@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_is_killed_and_the_run_goes_on_bit_for_bit(tmp_path, victim, never_killed):
    """The other says what has happened; both started again end as two that were never killed.

    It says so at once in the middle of a step; where it waits for the other with its checkpoint,
    JAX misses heartbeats, and its own words are printed as it aborts.
    """
    pair = start_short(tmp_path)
    assert processes.wait_until(lambda: processes.steps_logged(tmp_path) > 110, pair[0])
    assert saved_steps(tmp_path / "checkpoints") == [100]
    processes.kill(pair[victim])
    output, _ = pair[1 - victim].communicate(timeout=SOON + HEARTBEATS)
    if pair[1 - victim].returncode != -signal.SIGABRT:
        assert pair[1 - victim].returncode == 75
        assert "another process of this run is gone" in output
        assert "the last good checkpoint is" in output and "Start all" in output
    assert "another" in output
    for process in start_short(tmp_path):
        processes.finish(process)
    ours, theirs = (processes.arrays(folder, LAST) for folder in (tmp_path, never_killed))
    processes.assert_same_bits(ours, theirs)


SHIFTED_CLOCK = """
import time

now, now_ns = time.time, time.time_ns
time.time = lambda: now() + 3600
time.time_ns = lambda: now_ns() + 3600 * 10**9
"""


def test_the_clock_of_one_host_is_an_hour_ahead(tmp_path):
    """Python's clock, which Orbax and we read; the run ends as if it were right."""
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(SHIFTED_CLOCK)

    def start(workdir, clocks):
        def one(*overrides):
            wrong = "distributed.process_id=1" in overrides and clocks
            options = {"PYTHONPATH": str(tmp_path / "ahead")} if wrong else {}
            return processes.start_train(workdir, "total_steps=6", *overrides, **options)

        return processes.start_two(one)

    for workdir, clocks in ((tmp_path / "right", False), (tmp_path / "wrong", True)):
        for process in start(workdir, clocks):
            processes.finish(process)
    ours, theirs = (processes.arrays(tmp_path / name, 6) for name in ("wrong", "right"))
    processes.assert_same_bits(ours, theirs)
    assert saved_steps(tmp_path / "wrong" / "checkpoints") == [3, 6]
