"""A disk that is full during a save: an error, earlier checkpoints intact, and the way on."""

import os
import shutil
import subprocess

import pytest

from tests.training import processes
from vit_jax.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow
SIZE = 8 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of limited size cannot be mounted without root's rights")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def leave_free(disk, size):
    """Fills the disk with a file but for `size` bytes; returns the file."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - size)
    return filler


def test_full_disk_during_a_save(small_disk, tmp_path):
    processes.train(tmp_path / "never_full")
    workdir = small_disk / "run"
    process = processes.start_train(workdir)
    assert processes.wait_until(lambda: saved_steps(workdir / "checkpoints") == [3], process)
    processes.kill(process)
    shutil.rmtree(workdir / "checkpoints" / "6", ignore_errors=True)  # if it was that fast
    before = processes.arrays(workdir, 3)

    filler = leave_free(small_disk, 96 * 2**10)  # enough for the log, not for a checkpoint
    output = processes.train(workdir, code=2)
    assert "resuming after step 3" in output
    assert "a checkpoint could not be written" in output and "No space left" in output
    assert "Complete checkpoints there, by step: 3." in output
    assert "Traceback" not in output
    assert saved_steps(workdir / "checkpoints") == [3]
    processes.assert_same_bits(processes.arrays(workdir, 3), before)

    filler.unlink()
    processes.train(workdir)
    processes.assert_same_bits(
        processes.arrays(workdir, 12), processes.arrays(tmp_path / "never_full", 12)
    )
