"""Reading a large file tensor by tensor takes memory for a tensor, not for the file."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.convert.files import WRITERS
from vit_jax.convert.tensors import LazyTensor
from vit_jax.convert.writers import write_sharded_safetensors

MIB = 2**20
COUNT, SIZE = 25, 16 * MIB  # 400 MiB

# Prints the largest growth, in bytes, of the memory that belongs to no file (proc(5): RssAnon).
VISIT = """
import sys
import numpy as np
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.writers import write_safetensors
if sys.argv[1].endswith(".pth"):
    import torch

def anonymous():
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024

before, most, total = anonymous(), 0, 0
for tensor in read_tensors(sys.argv[1]).values():
    array = tensor.read()
    total += int(array.sum(dtype=np.int64))
    most = max(most, anonymous() - before)
    del array, tensor
print(total, most)
"""


def parameters():
    """Arrays that are made when they are written."""

    def tensor(value):
        return LazyTensor(
            (SIZE // 4,), np.dtype(np.int32), lambda: np.full(SIZE // 4, value, np.int32)
        )

    return {f"x{value}": tensor(value) for value in range(COUNT)}


def save_compressed(path, tensors):
    np.savez_compressed(path, **{name: x.read() for name, x in tensors.items()})


def save_shards(path, tensors):
    write_sharded_safetensors(path, tensors, 100 * MIB)


@pytest.mark.parametrize(
    ("name", "save", "held"),
    [
        ("x.safetensors", WRITERS[".safetensors"], 0),
        ("shards", save_shards, 0),
        ("x.npz", WRITERS[".npz"], 0),
        ("x.npz", save_compressed, 1),
        ("x.pth", WRITERS[".pth"], 0),
    ],
    ids=["safetensors", "shards", "npz", "npz-compressed", "torch"],
)
def test_anonymous_memory(tmp_path, name, save, held):
    """`held`: how many tensors of the file are copied at a time."""
    path = tmp_path / name
    save(path, parameters())
    visit = [sys.executable, "-c", VISIT, os.fspath(path)]
    result = subprocess.run(visit, check=True, capture_output=True, text=True)
    total, most = map(int, result.stdout.split())
    assert total == sum(range(COUNT)) * SIZE // 4
    assert most < held * SIZE + 4 * MIB  # measured: 0.03 to 0.14 MiB, 0.92 MiB where one is held
    subprocess.run(["rm", "-r", os.fspath(path)], check=True)


WRITE = """
import resource, sys
import numpy as np
sys.path.insert(0, ".")
from tests.convert.files import WRITERS
from tests.convert.test_memory import parameters
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
WRITERS[sys.argv[2]](sys.argv[1], parameters())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_writing_holds_one_tensor(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write = [sys.executable, "-c", WRITE, os.fspath(path), suffix]
    result = subprocess.run(write, check=True, capture_output=True, text=True)
    assert path.stat().st_size > COUNT * SIZE
    assert int(result.stdout) < 2 * SIZE + 16 * MIB
    path.unlink()
