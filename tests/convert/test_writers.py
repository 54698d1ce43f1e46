"""What is written, read by the programs that define the formats; and writing that fails."""

import json
import os
import resource
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from safetensors import safe_open

from tests.convert.files import WRITERS, assert_same, tensors
from tests.models.timm_oracle import create_model
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.tensors import LazyTensor
from vit_jax.convert.writers import (
    write_npz,
    write_safetensors,
    write_sharded_safetensors,
    write_torch,
)
from vit_jax.errors import UserError

ALL_WRITERS = pytest.mark.parametrize("suffix", WRITERS)


def torch_equal(tensor, array):
    """A tensor of PyTorch has the dtype, shape and bits of an array."""
    kind = str(tensor.dtype).removeprefix("torch.")
    same = (kind, tuple(tensor.shape)) == (array.dtype.name, array.shape)
    return same and tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pytorch_loads_them(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    expected = {**tensors(), "f8": np.arange(4).astype(ml_dtypes.float8_e4m3fn)}
    WRITERS[suffix](path, expected)
    if suffix == ".pth":
        found = torch.load(path, weights_only=True)
    else:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(found) == set(expected)
    assert all(torch_equal(x, expected[name]) for name, x in found.items())


def test_safetensors_are_the_bytes_that_the_package_writes(tmp_path):
    arrays = {name: np.ones(n, np.float32) for name, n in [("b", 3), ("a", 2), ("é", 1)]}
    for metadata in [None, {"format": "pt"}]:
        write_safetensors(tmp_path / "ours", arrays, metadata)
        safetensors.numpy.save_file(arrays, tmp_path / "theirs", metadata)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_numpy_loads_npz(tmp_path):
    write_npz(tmp_path / "x.npz", tensors())
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert set(found) == set(tensors())
        for name, x in tensors().items():
            if x.dtype == ml_dtypes.bfloat16:  # as big_vision stores and restores it
                assert found[name].dtype == np.dtype("V2")
                np.testing.assert_array_equal(found[name].view(ml_dtypes.bfloat16), x)
            else:
                assert found[name].dtype == x.dtype
                np.testing.assert_array_equal(found[name], x)


@ALL_WRITERS
def test_memory_and_byte_order(tmp_path, suffix):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {"transposed": base.T, "step": base[:, ::2], "big": base.astype(">f4")}
    WRITERS[suffix](tmp_path / "x", expected)
    found = read_tensors(tmp_path / "x")
    for name, x in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name].read(), x)


@ALL_WRITERS
@pytest.mark.parametrize("source", WRITERS)
def test_from_format_to_format(tmp_path, suffix, source):
    """Lazy tensors are written as they are read, without being changed."""
    WRITERS[source](tmp_path / "x", tensors())
    WRITERS[suffix](tmp_path / "y", read_tensors(tmp_path / "x"))
    assert_same(read_tensors(tmp_path / "y"), tensors())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_one_tensor_at_a_time(tmp_path, suffix):
    """A tensor is read when the one before it is written and gone."""
    alive = set()

    class Watched(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def read():
        array = np.ones((4, 4), np.float32).view(Watched)
        assert not alive
        alive.add(id(array))
        return array

    lazy = {name: LazyTensor((4, 4), np.dtype(np.float32), read) for name in "abc"}
    WRITERS[suffix](tmp_path / "x", lazy)
    assert len(read_tensors(tmp_path / "x")) == 3


# Shards


def test_shards_that_transformers_loads(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4,
    )  # fmt: skip
    model = transformers.ViTModel(config)
    model.save_pretrained(tmp_path / "theirs")
    weights = read_tensors(tmp_path / "theirs")
    config.save_pretrained(tmp_path / "ours")
    write_sharded_safetensors(tmp_path / "ours", weights, 2000)
    files = sorted(path.name for path in (tmp_path / "ours").glob("model*"))
    count = len(files) - 1
    assert count > 2 and files == [
        *(f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)),
        "model.safetensors.index.json",
    ]
    loaded, report = transformers.ViTModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, x in loaded.state_dict().items():
        assert torch.equal(x, model.state_dict()[name])


@pytest.mark.parametrize("limit", [1, 40, 100, 10**9])
def test_size_of_shards(tmp_path, limit):
    expected = {f"x{n}": np.ones(n, np.float32) for n in [5, 5, 30, 1, 2, 24, 1]}
    write_sharded_safetensors(tmp_path, expected, limit, name="vit.safetensors")
    assert_same(read_tensors(tmp_path), expected)
    paths = list(tmp_path.glob("*.safetensors"))
    for path in paths:
        values = safetensors.numpy.load_file(path).values()
        assert len(values) == 1 or sum(x.nbytes for x in values) <= limit
    if limit == 10**9:
        assert [path.name for path in paths] == ["vit.safetensors"]
        assert len(list(tmp_path.iterdir())) == 1
    else:
        index = json.loads((tmp_path / "vit.safetensors.index.json").read_text())
        assert index["metadata"] == {"total_size": sum(x.nbytes for x in expected.values())}


def test_shards_are_not_mixed_with_others(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": np.ones(1)})
    (tmp_path / "model_card.safetensors").touch()
    match = r"already holds 'model.safetensors': give another folder"
    with pytest.raises(UserError, match=match):
        write_sharded_safetensors(tmp_path, {"a": np.ones(1)}, 1)


def test_timm_loads_them(tmp_path):
    options = {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 3}
    model = create_model("vit_tiny_patch16_224", **options)
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    for suffix in [".safetensors", ".pth"]:
        path = tmp_path / f"x{suffix}"
        WRITERS[suffix](path, state)
        loaded = create_model("vit_tiny_patch16_224", checkpoint_path=str(path), **options)
        for name, x in loaded.state_dict().items():
            np.testing.assert_array_equal(x.numpy(), state[name])


# What cannot be written


@pytest.mark.parametrize(
    ("suffix", "array"),
    [
        (".safetensors", np.ones(2, np.complex128)),
        (".safetensors", np.array(["text"])),
        (".npz", np.ones(2).astype(ml_dtypes.float8_e5m2)),
        (".npz", np.array([None])),
        (".pth", np.array(["text"])),
    ],
)
def test_dtypes_that_a_format_has_not(tmp_path, suffix, array):
    with pytest.raises(UserError, match="'b'"):
        WRITERS[suffix](tmp_path / "x", {"a": np.ones(2), "b": array})
    assert not list(tmp_path.iterdir())


def test_a_name_that_safetensors_reserves(tmp_path):
    with pytest.raises(UserError, match=r"'__metadata__'.*cannot be stored"):
        write_safetensors(tmp_path / "x", {"__metadata__": np.ones(2)})


@ALL_WRITERS
def test_a_folder_is_not_replaced(tmp_path, suffix):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        WRITERS[suffix](tmp_path / "x", tensors())


def test_pytorch_is_needed_for_its_own_format_only(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write_safetensors(tmp_path / "x", tensors())
    write_npz(tmp_path / "y", tensors())
    with pytest.raises(UserError, match=r"pip install vit_jax\[torch\]"):
        write_torch(tmp_path / "z", tensors())


@ALL_WRITERS
def test_a_file_is_replaced_and_its_folder_made(tmp_path, suffix):
    path = tmp_path / "new" / "folder" / "x"
    for value in [0.0, 1.0]:
        WRITERS[suffix](path, {"a": np.full(2, value)})
        assert_same(read_tensors(path), {"a": np.full(2, value)})
        assert [entry.name for entry in path.parent.iterdir()] == ["x"]


# Writing that fails


@pytest.fixture
def file_limit():
    """No file may become larger than 100 kB: writes fail as on a full disk, with an OSError."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


LARGE = {name: np.ones((50, 100), np.float32) for name in "abcdefgh"}  # 20 kB each


@ALL_WRITERS
@pytest.mark.parametrize("there", [False, True])
def test_a_failed_write_leaves_what_was_there(tmp_path, suffix, there, file_limit):
    if there:
        WRITERS[suffix](tmp_path / "x", {"old": np.ones(3)})
    with pytest.raises(OSError):  # EFBIG here, ENOSPC on a disk
        WRITERS[suffix](tmp_path / "x", LARGE)
    assert [path.name for path in tmp_path.iterdir()] == ["x"] * there
    if there:
        assert_same(read_tensors(tmp_path / "x"), {"old": np.ones(3)})


def test_a_failed_shard_leaves_nothing(tmp_path, file_limit):
    too_large = {**LARGE, "z": np.ones(30_000, np.float32)}
    with pytest.raises(OSError):
        write_sharded_safetensors(tmp_path, too_large, 80_000)
    assert not list(tmp_path.iterdir())
    write_sharded_safetensors(tmp_path, LARGE, 80_000)  # the limit is for each file
    assert_same(read_tensors(tmp_path), LARGE)


@ALL_WRITERS
def test_a_tensor_that_cannot_be_read(tmp_path, suffix):
    def read():
        raise RuntimeError("damaged")

    lazy = {"a": np.ones(2), "b": LazyTensor((2,), np.dtype(np.float32), read)}
    with pytest.raises(RuntimeError, match="damaged"):
        WRITERS[suffix](tmp_path / "x", lazy)
    with pytest.raises(RuntimeError, match="damaged"):
        write_sharded_safetensors(tmp_path, lazy, 1)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(tmp_path):
    """A file system of its own of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", os.fspath(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of limited size cannot be mounted without root's rights")
    yield disk
    subprocess.run(["umount", os.fspath(disk)], check=True)


@ALL_WRITERS
def test_a_full_disk(full_disk, suffix):
    arrays = {name: np.ones(10**5, np.float32) for name in "abcd"}
    with pytest.raises(OSError, match="No space left"):
        WRITERS[suffix](full_disk / "x", arrays)
    with pytest.raises(OSError, match="No space left"):
        write_sharded_safetensors(full_disk, arrays, 10**5)
    assert not list(full_disk.iterdir())
