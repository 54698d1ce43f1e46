"""`.npz`, against NumPy."""

import io
import os
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.convert.files import assert_same, tensors
from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers import read_tensors

SAVES = [np.savez, np.savez_compressed]


def big_vision():
    """Names as in a checkpoint of big_vision with two towers."""
    rng = np.random.default_rng(1)
    encoder = "params/img/Transformer/encoderblock"
    return {
        f"{encoder}/MlpBlock_0/Dense_0/kernel": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "params/img/pos_embedding": rng.normal(size=(1, 4, 3)).astype(ml_dtypes.bfloat16),
        "params/txt/Embed_0/embedding": rng.normal(size=(5, 3)).astype(np.float32),
        "params/t": np.asarray([1.5], np.float32),
    }


@pytest.mark.parametrize("save", SAVES)
def test_reads_what_numpy_writes(tmp_path, save):
    save(tmp_path / "x.npz", **tensors())  # bfloat16 becomes |V2, as in big_vision's files
    assert np.load(tmp_path / "x.npz")["norm.bias"].dtype == np.dtype("V2")
    assert_same(read_tensors(tmp_path / "x.npz"), tensors())


@pytest.mark.parametrize("save", SAVES)
def test_key_is_a_prefix_of_names(tmp_path, save):
    arrays = big_vision()
    save(tmp_path / "x.npz", **arrays)
    assert_same(read_tensors(tmp_path / "x.npz"), arrays)
    for key in ["params", "params/img", "params/txt"]:
        part = {k.removeprefix(key + "/"): x for k, x in arrays.items() if k.startswith(key + "/")}
        assert_same(read_tensors(tmp_path / "x.npz", key=key), part)
    with pytest.raises(CheckpointFileError, match="unknown key 'params/im'"):
        read_tensors(tmp_path / "x.npz", key="params/im")


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f4", ">i8", ">c8"])
def test_byte_and_memory_order(tmp_path, save, order, dtype):
    expected = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
    save(tmp_path / "x.npz", x=expected)
    (found,) = read_tensors(tmp_path / "x.npz").values()
    assert found.dtype == found.read().dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found.read(), expected)


def test_stored_arrays_are_views_that_jax_accepts(tmp_path):
    """They lie at any byte, hence not at a multiple of their width."""
    arrays = {"x" * n: np.arange(n, dtype=np.float32) for n in range(1, 9)}
    np.savez(tmp_path / "x.npz", **arrays)
    found = {name: x.read() for name, x in read_tensors(tmp_path / "x.npz").items()}
    assert not all(x.flags.aligned for x in found.values())
    for name, x in found.items():
        assert not x.flags.owndata
        np.testing.assert_array_equal(jnp.asarray(x) + 1, arrays[name] + 1)


def test_objects_are_refused_and_do_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    np.savez(tmp_path / "x.npz", a=np.ones(2), b=np.array([Harmful()]))
    with pytest.raises(CheckpointFileError, match=r"'b.npy' holds Python objects"):
        read_tensors(tmp_path / "x.npz")
    assert not marker.exists()
    np.load(tmp_path / "x.npz", allow_pickle=True)["b"]
    assert marker.exists()  # so it would have run


@pytest.mark.parametrize(
    "array", [np.zeros(2, "V3"), np.zeros(2, "V1"), np.zeros(2, "f4,i4"), np.array(["text"])]
)
def test_what_is_no_number_is_refused(tmp_path, array):
    np.savez(tmp_path / "x.npz", a=array)
    with pytest.raises(CheckpointFileError, match=r"'a.npy' is of dtype .*; expected numbers"):
        read_tensors(tmp_path / "x.npz")


def npy(cut=None):
    file = io.BytesIO()
    np.save(file, np.ones(4, np.float32))
    return file.getvalue()[:cut]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a.npy", npy(cut=-4))], "has 140 bytes, not 144"),
        ([("a.npy", npy() + b"more")], "has 148 bytes, not 144"),
        ([("a.npy", b"not an array")], "does not begin as an array"),
        ([("a.npy", b"\x93NUMPY\x09\x00" + npy()[8:])], r"version \(9, 0\)"),
        ([("a.npy", npy()), ("a.npy", npy())], "the entry 'a.npy' twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_entries(tmp_path, entries, message, compression):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(tmp_path / "x.npz")


def test_an_entry_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", npy())
        archive.writestr("notes.txt", b"text")
    with pytest.raises(CheckpointFileError, match=r"zip archive that .*; expected .npy"):
        read_tensors(tmp_path / "x.npz")


@pytest.mark.parametrize("save", SAVES)
def test_a_flipped_bit_is_noticed(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, x=np.random.default_rng(0).normal(size=1000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (found,) = read_tensors(path).values()
    with pytest.raises(CheckpointFileError, match=r"its entry 'x.npy' is damaged"):
        found.read()
