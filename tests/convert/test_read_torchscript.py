"""TorchScript archives, against `torch.jit.load(path).state_dict()`."""

import io
import os
import pickle
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from tests.convert.files import assert_same
from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers import read_tensors

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, 2)
        self.ln_1 = torch.nn.LayerNorm(width)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.ReLU())

    def forward(self, x):
        return x + self.mlp(self.ln_1(x + self.attn(x, x, x, need_weights=False)[0])).sum()


class Clip(torch.nn.Module):
    """The kinds of names and attributes that OpenAI's archives have, and what else there may be."""

    def __init__(self, width=4):
        super().__init__()
        self.class_embedding = torch.nn.Parameter(torch.rand(width))
        self.proj = torch.nn.Parameter(torch.rand(width, 3).T)  # strides that are not C's
        self.logit_scale = torch.nn.Parameter(torch.rand(()))
        self.resblocks = torch.nn.Sequential(Block(width), Block(width))
        self.norm = torch.nn.BatchNorm1d(width)
        self.shared = self.norm  # listed under both names
        for name, value in [("input_resolution", 224), ("context_length", 77)]:
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("mask", torch.rand(3, 3), persistent=False)
        self.register_buffer("absent", None)
        self.plain_tensor = torch.rand(2)  # neither parameter nor buffer
        self.vocab_size = 49408  # not a tensor
        self.names = ["a", "b"]
        self.sizes = (1, 2)

    def forward(self, x):
        x = self.resblocks(x + self.class_embedding) @ self.proj.T
        return x * self.logit_scale + self.mask.sum() + self.plain_tensor.sum()


def archive(path, module, how, dtype):
    torch.manual_seed(0)
    module = module.to(dtype).eval()
    example = torch.rand(3, 1, 4, dtype=dtype)
    saved = torch.jit.script(module) if how == "script" else torch.jit.trace(module, example)
    saved.save(path)
    return {name: x.numpy() for name, x in torch.jit.load(path).state_dict().items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "small.pt"
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.jit.script(module).save(path)
    return path


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equals_state_dict(tmp_path, how, dtype):
    path = tmp_path / "clip.pt"
    expected = archive(path, Clip(), how, dtype)
    found = read_tensors(path)
    assert_same(found, expected)
    assert found["input_resolution"].read()[()] == 224 and found["context_length"].shape == ()
    assert found["class_embedding"].dtype == str(dtype).removeprefix("torch.")
    assert not {"plain_tensor", "vocab_size", "training"} & set(found)


def test_bfloat16(tmp_path):
    module = torch.nn.Linear(3, 4).to(torch.bfloat16)
    torch.jit.script(module).save(tmp_path / "x.pt")
    found = read_tensors(tmp_path / "x.pt")
    assert found["weight"].dtype == "bfloat16"
    expected = module.weight.detach().float().numpy()
    np.testing.assert_array_equal(found["weight"].read().astype(np.float32), expected)


def test_key_is_a_submodule(tmp_path):
    expected = archive(tmp_path / "clip.pt", Clip(), "script", torch.float32)
    prefix = "resblocks.1."
    part = {k.removeprefix(prefix): x for k, x in expected.items() if k.startswith(prefix)}
    assert_same(read_tensors(tmp_path / "clip.pt", key="resblocks.1"), part)


def test_needs_no_pytorch_and_copies_nothing(small):
    program = (
        "import sys\n"
        "from vit_jax.convert.readers import read_tensors\n"
        f"found = [x.read() for x in read_tensors({str(small)!r}).values()]\n"
        "assert found and not any(x.flags.owndata for x in found)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def rewrite(source, target, change):
    """Copies an archive with `change(name, data)` in place of each entry; None leaves it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return target


def with_pickle(small, tmp_path, data):
    def change(name, old):
        return data if name.endswith("/data.pkl") else old

    return rewrite(small, tmp_path / "changed.pt", change)


class Harmful:
    def __init__(self, path):
        self.path = os.fspath(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_the_pickle_is_refused_and_does_not_run(small, tmp_path, protocol):
    marker = tmp_path / "ran"
    path = with_pickle(small, tmp_path, pickle.dumps(Harmful(marker), protocol))
    with pytest.raises(CheckpointFileError, match=r"asks for 'posix.mkdir', which is neither"):
        read_tensors(path)
    assert not marker.exists()


def test_code_in_the_source_does_not_run(small, tmp_path):
    marker = tmp_path / "ran"
    line = f"\n__import__('os').mkdir({os.fspath(marker)!r})\n".encode()

    def change(name, data):
        return line + data if "/code/" in name and name.endswith(".py") else data

    found = read_tensors(rewrite(small, tmp_path / "changed.pt", change))
    assert found["0.weight"].shape == (4, 3) and not marker.exists()


def test_archives_of_before_buffers_were_named(tmp_path):
    """Archives up to PyTorch 1.6 lack the line; its absence is all that differs here."""
    expected = archive(tmp_path / "clip.pt", Clip(), "script", torch.float32)

    def change(name, data):
        return re.sub(rb"  __buffers__ = .*\n", b"", data) if name.endswith(".py") else data

    found = read_tensors(rewrite(tmp_path / "clip.pt", tmp_path / "old.pt", change))
    extra = {"plain_tensor": found["plain_tensor"].read()}
    assert_same(found, expected | extra)


def global_(name):
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


@pytest.mark.parametrize(
    "target",
    [
        "torch._utils._rebuild_tensor_v2",
        "collections.OrderedDict",
        "torch.FloatStorage",
        "__torch__.Anything",
    ],
)
def test_a_pickle_cannot_change_what_it_was_given(small, tmp_path, target):
    """BUILD on a function or class of ours sets no attribute."""
    state = pickle.dumps((None, {"__defaults__": (1,), "dtype": 1}), 2)[2:-1]
    path = with_pickle(small, tmp_path, b"\x80\x02" + global_(target) + state + b"b.")
    with pytest.raises(CheckpointFileError, match="damaged"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.QInt8Storage", "quantised tensors"),
        ("torch._utils._rebuild_qtensor", "quantised tensors"),
        ("torch.jit._pickle.build_tensor_from_id", "asks for 'torch.jit._pickle.build_tensor_fro"),
        ("builtins.getattr", "asks for 'builtins.getattr'"),
    ],
)
def test_other_globals_are_refused(small, tmp_path, name, message):
    path = with_pickle(small, tmp_path, b"\x80\x02" + global_(name) + b".")
    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x0c", b"K\x0b", "has 48 bytes; expected 44"),
        (b"torch\nFloatStorage", b"torch\nHalfStorage", "has 48 bytes; expected 24"),
    ],
)
def test_storage_of_another_size(small, tmp_path, old, new, message):
    def change(name, data):
        return data.replace(old, new, 1) if name.endswith("/data.pkl") else data

    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(rewrite(small, tmp_path / "changed.pt", change))


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    """Shape (4, 3) with strides (3, 1) becomes (4, 3) with strides (9, 1)."""
    torch.jit.script(torch.nn.Linear(3, 4)).save(tmp_path / "x.pt")

    def change(name, data):
        if not name.endswith("/data.pkl"):
            return data
        assert data.count(b"(K\x03K\x01t") == 1
        return data.replace(b"(K\x03K\x01t", b"(K\x09K\x01t")

    with pytest.raises(CheckpointFileError, match="damaged"):
        read_tensors(rewrite(tmp_path / "x.pt", tmp_path / "changed.pt", change))


def test_a_missing_entry(small, tmp_path):
    def change(name, data):
        return None if name.endswith("/data/0") else data

    with pytest.raises(CheckpointFileError, match="its entry 'small/data/0' is missing"):
        read_tensors(rewrite(small, tmp_path / "changed.pt", change))


def test_big_endian_and_compressed_archives_are_refused(small, tmp_path):
    def change(name, data):
        return b"big" if name.endswith("/byteorder") else data

    with pytest.raises(CheckpointFileError, match="not little-endian"):
        read_tensors(rewrite(small, tmp_path / "changed.pt", change))
    with zipfile.ZipFile(small) as old, io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
        (tmp_path / "changed.pt").write_bytes(file.getvalue())
    with pytest.raises(CheckpointFileError, match="is compressed"):
        read_tensors(tmp_path / "changed.pt")


def test_a_module_that_contains_itself(small, tmp_path):
    with zipfile.ZipFile(small) as file:
        module = re.search(rb"c__torch__\S+\n\w+\n", file.read("small/data.pkl"))[0]
    # m = Sequential(); m.__setstate__({"0": m})
    data = b"\x80\x02" + module + b")\x81q\x00}X\x01\x00\x00\x000h\x00sb."
    with pytest.raises(CheckpointFileError, match="contains itself"):
        read_tensors(with_pickle(small, tmp_path, data))
