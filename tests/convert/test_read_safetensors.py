"""Safetensors, against the package that defines the format."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from tests.convert.files import assert_same, tensors
from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.writers import write_safetensors

FLOAT8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def write(path, header, values=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + values)
    return path


def entry(begin, end, dtype="F32", shape=None):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_package_writes_for_numpy(tmp_path):
    arrays = {name: x for name, x in tensors().items() if x.dtype != ml_dtypes.bfloat16}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", {"format": "pt"})
    assert_same(read_tensors(tmp_path / "x.safetensors"), arrays)


@pytest.mark.parametrize("kind", ["bfloat16", *FLOAT8])
def test_reads_what_the_package_writes_for_pytorch(tmp_path, kind):
    values = (torch.rand(3, 4) * 4).to(getattr(torch, kind))
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"x": values}, path)
    (found,) = read_tensors(path).values()
    assert found.dtype == getattr(ml_dtypes, kind)
    np.testing.assert_array_equal(found.read().astype(np.float32), values.float().numpy())


def test_needs_neither_pytorch_nor_tensorflow_nor_the_package(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors())
    program = (
        "import sys\n"
        "from vit_jax.convert.readers import read_tensors\n"
        f"assert [x.read() for x in read_tensors({str(path)!r}).values()]\n"
        "assert not {'torch', 'tensorflow', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_key_is_a_prefix_of_names(tmp_path):
    arrays = {"vision.a.weight": np.ones(2), "vision.b": np.zeros(3), "visionary": np.zeros(1)}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    found = read_tensors(tmp_path / "x.safetensors", key="vision")
    assert_same(found, {"a.weight": np.ones(2), "b": np.zeros(3)})
    with pytest.raises(CheckpointFileError, match=r"unknown key 'text'.*'vision'"):
        read_tensors(tmp_path / "x.safetensors", key="text")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a": ', "its header is not JSON"),
        (b"{" + b"[" * 100_000, "its header is not JSON"),
        ({"a": {"dtype": "F32"}}, "its header says of 'a'"),
        ({"a": entry(0, -8)}, "its header says of 'a'"),
        ({"a": entry(0, 8, shape=[True, 2])}, "its header says of 'a'"),
        ({"a": entry(0, 8, "F4")}, "'a' is of dtype 'F4'"),
        ({"a": entry(0, 8, shape=[3])}, r"'a', F32 \[3\], needs 12 bytes but has bytes 0 to 8"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b' overlaps the tensor before it"),
        ({"a": entry(0, 4), "b": entry(8, 16)}, "'b' follows a hole"),
        ({"a": entry(0, 8)}, "8 bytes follow the last tensor"),
        ({"a": entry(0, 8), "b": entry(8, 24)}, r"cut short, 16 of 24 bytes.*missing: 'b'"),
        ({"a": entry(0, 0, shape=[0, 10**30]), "b": entry(0, 16)}, "cannot hold a tensor of shape"),
        ({}, "16 bytes follow"),
    ],
)
def test_header_that_contradicts_itself_or_the_file(tmp_path, header, message):
    path = write(tmp_path / "x.safetensors", header, bytes(16))
    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(path)


def test_a_name_that_occurs_twice(tmp_path):
    one = json.dumps(entry(0, 8)).encode()
    path = write(tmp_path / "x.safetensors", b'{"a": ' + one + b', "a": ' + one + b"}", bytes(8))
    with pytest.raises(CheckpointFileError, match="the name 'a' twice"):
        read_tensors(path)


def test_no_tensors(tmp_path):
    with pytest.raises(CheckpointFileError, match="it holds no tensors"):
        read_tensors(write(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}}))


def test_header_that_is_longer_than_the_file_or_the_format_allows(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": entry(0, 4)}, bytes(4), length=1000)
    with pytest.raises(CheckpointFileError, match=r"cut short, \d+ of 1008 bytes"):
        read_tensors(path)
    path = write(tmp_path / "x.safetensors", {"a": entry(0, 4)}, bytes(4), length=2**40)
    with pytest.raises(CheckpointFileError, match="expected at most 100000000"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["block.attn.weight", "encoder/kernel", "layer.qweight"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_, ml_dtypes.float8_e5m2])
def test_quantised_weights_are_refused(tmp_path, name, dtype):
    arrays = {name: np.ones((2, 2), dtype), "bias": np.ones(2, np.float32)}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    with pytest.raises(CheckpointFileError, match=rf"{name}' are quantised \({np.dtype(dtype)}\)"):
        read_tensors(tmp_path / "x.safetensors")
