"""Starts `vit-jax` as real processes, and reads what they leave behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from vit_jax.training import checkpoint, metrics, run_folder

TINY = Path(__file__).parent / "tiny.py"
# Compiled programs are kept from process to process. That is part of what the tests of resuming
# prove safe: the run that is never killed compiles everything itself.
CACHE = Path(tempfile.gettempdir()) / f"vit_jax_tests_{os.getuid()}"


def command(*arguments):
    return [sys.executable, "-m", "vit_jax.cli.main", *map(str, arguments)]


def environment(devices, cache=True, **more):
    """The environment of a process with simulated CPU devices; without `cache` it keeps nothing."""
    result = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # no need for the process to start twice
        **more,
    }
    if cache:
        result |= {
            "JAX_COMPILATION_CACHE_DIR": str(CACHE),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
    elif "JAX_ENABLE_COMPILATION_CACHE" not in more:
        result["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    return result


def start(*arguments, **options):
    """Starts `vit-jax ARGUMENTS` and returns the process; use `finish` to wait for it."""
    return start_command(command(*arguments), **options)


def start_command(command, devices=1, cache=True, **more):
    """Starts a command in `environment(...)` and returns the process."""
    return subprocess.Popen(
        command,
        env=environment(devices, cache, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a signal for the tests is not for it
    )


def start_train(workdir, *overrides, config=TINY, **options):
    keys = [f"--config.{override}" for override in overrides]
    return start("train", "--config", config, "--workdir", workdir, *keys, **options)


def free_port():
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_several(start, count, *overrides, **options):
    """Starts processes on this machine that train one model.

    `start(*overrides, **options)` starts one of them.
    """
    port = free_port()
    together = [f"distributed.coordinator=127.0.0.1:{port}", f"distributed.num_processes={count}"]
    return [
        start(*overrides, *together, f"distributed.process_id={index}", **options)
        for index in range(count)
    ]


def start_two(start, *overrides, **options):
    """Starts two processes, see `start_several`."""
    return start_several(start, 2, *overrides, **options)


def finish(process, code=0, timeout=240):
    """Waits for a process and returns what it printed; it has to end with `code`."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == code, f"exit code {process.returncode}:\n{output}"
    return output


def train(workdir, *overrides, code=0, **options):
    """Runs `vit-jax train` to its end and returns what it printed."""
    return finish(start_train(workdir, *overrides, **options), code)


def kill(process):
    """Kills the process and what it started, as nothing can resist."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_until(happened, process, timeout=120):
    """Waits until `happened()`; returns False where the process ends before."""
    deadline = time.monotonic() + timeout
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "nothing happened for too long"
        time.sleep(0.0005)
    return True


def steps_logged(workdir):
    """Number of training steps in metrics.jsonl."""
    path = Path(workdir) / metrics.FILE_NAME
    return path.read_text().count('"train"') if path.exists() else 0


def lines(workdir, split):
    """The lines of a split in metrics.jsonl without what depends on the clock."""
    return [
        {
            name: value
            for name, value in line.items()
            if name != "images_per_second" and not name.endswith("_seconds")
        }
        for line in metrics.read_metrics(workdir)
        if line["split"] == split
    ]


def losses(workdir):
    return np.array([line["loss"] for line in lines(workdir, "train")])


def arrays(workdir, step):
    """Every array of a checkpoint, by name."""
    directory = run_folder.checkpoints_dir(workdir)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    targets = {
        name: jax.ShapeDtypeStruct(entry["shape"], np.dtype(entry["dtype"]), sharding=place)
        for name, entry in checkpoint.record_of(directory, step).arrays.items()
    }
    restored, _ = checkpoint.restore(directory, step, targets)
    return {name: np.asarray(x) for name, x in restored.items()}


def assert_same_bits(one, other):
    """Two dicts of arrays are equal, bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name
