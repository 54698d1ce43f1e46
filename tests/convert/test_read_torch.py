"""What `torch.save` writes, in both of its formats, and what must not run."""

import argparse
import collections
import os
import pathlib
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.convert.files import assert_same
from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers import read_tensors
from vit_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LEGACY = {"_use_new_zipfile_serialization": False}
FORMATS = pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
INTEGERS = ["int8", "int16", "int32", "int64"]
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
OTHER = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}


def read(tmp_path, content, key=None, **options):
    torch.save(content, tmp_path / "x.pth", **options)
    return read_tensors(tmp_path / "x.pth", key=key)


def as_numpy(weights):
    return {name: x.numpy() for name, x in weights.items()}


@FORMATS
def test_state_dict_with_every_dtype(tmp_path, options):
    state = {
        name: torch.arange(6).reshape(2, 3).to(getattr(torch, name))
        for name in ["bool", "uint8", *INTEGERS, "float16", "float32", "float64", "complex64"]
    }
    scalars = {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    found = read(tmp_path, {**state, **scalars}, **options)
    assert_same(found, as_numpy({**state, **scalars}))


@FORMATS
def test_dtypes_that_numpy_has_not(tmp_path, options):
    kinds = ["bfloat16"]
    if not options:  # PyTorch itself cannot read what it writes of these in the legacy format
        kinds += [name for name in dir(torch) if name.startswith("float8_")]
    assert options or len(kinds) == 6
    state = {kind: (torch.rand(3, 4) * 4).to(getattr(torch, kind)) for kind in kinds}
    for name, x in read(tmp_path, state, **options).items():
        assert x.dtype == x.read().dtype == getattr(ml_dtypes, name)
        np.testing.assert_array_equal(x.read().astype(np.float32), state[name].float().numpy())


@FORMATS
def test_module_with_buffers_parameters_and_views(tmp_path, options):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = module.state_dict()
    state["transposed"] = state["0.weight"].T  # of the same storage
    state["parameter"] = torch.nn.Parameter(torch.rand(3)[1:])
    state["conjugate"] = torch.rand(2, dtype=torch.complex64).conj()
    expected = {name: x.detach().resolve_conj().numpy() for name, x in state.items()}
    assert_same(read(tmp_path, state, **options), expected)


def test_the_zip_format_is_mapped(tmp_path):
    (x,) = read(tmp_path, {"x": torch.rand(2**18)}).values()
    values = x.read()
    address = values.__array_interface__["data"][0]
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            assert line.endswith("x.pth")
            return
    raise AssertionError("the values are nowhere in memory")


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"model": WEIGHTS},
        {"model": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3},
        {"state_dict": collections.OrderedDict(WEIGHTS), "arch": "vit", "metric": 81.5},
        {"state_dict": {"model": WEIGHTS}},
        {"module": WEIGHTS, "rng_state": torch.zeros(5, dtype=torch.uint8)},
        {"model": {f"module._orig_mod.{name}": x for name, x in WEIGHTS.items()}},
        {f"_orig_mod.module.backbone.{name}": x for name, x in WEIGHTS.items()},
        {**WEIGHTS, "epoch": 3, "note": "text", "none": None},
    ],
)
@FORMATS
def test_finds_the_weights(tmp_path, checkpoint, options):
    assert_same(read(tmp_path, checkpoint, **options), as_numpy(WEIGHTS))


def test_prefixes_that_not_all_names_have_stay(tmp_path):
    state = {"backbone.cls_token": torch.ones(2), "head.weight": torch.ones(2)}
    wrapped = {f"module.{name}": x for name, x in state.items()}
    assert_same(read(tmp_path, wrapped), as_numpy(state))


@pytest.mark.parametrize("keys", [("student", "teacher"), ("model", "model_ema"), ("model", "ema")])
def test_several_sets_of_weights_need_a_key(tmp_path, keys):
    checkpoint = {keys[0]: WEIGHTS, keys[1]: OTHER, "epoch": 3}
    match = rf"more than one set of weights: .*'{keys[0]}', '{keys[1]}'; choose .* with `key`"
    with pytest.raises(CheckpointFileError, match=match):
        read(tmp_path, checkpoint)
    assert_same(read(tmp_path, checkpoint, key=keys[0]), as_numpy(WEIGHTS))
    assert_same(read(tmp_path, checkpoint, key=keys[1]), as_numpy(OTHER))


def test_keys_that_lead_through_dictionaries(tmp_path):
    checkpoint = {"run.1": {"model": WEIGHTS, "opt": OTHER}, "averages": [OTHER, WEIGHTS]}
    for key in ["run.1", "run.1.model", "averages.1"]:
        assert_same(read(tmp_path, checkpoint, key=key), as_numpy(WEIGHTS))
    found = read(tmp_path, checkpoint, key="run.1.model.a")
    assert_same(found, {"weight": WEIGHTS["a.weight"].numpy(), "bias": WEIGHTS["a.bias"].numpy()})
    with pytest.raises(CheckpointFileError, match=r"no set of weights under a usual name.*'run.1'"):
        read(tmp_path, checkpoint)
    with pytest.raises(CheckpointFileError, match="unknown key 'average': did you mean 'averages'"):
        read(tmp_path, checkpoint, key="average")


def test_two_tensors_of_one_name(tmp_path):
    one = torch.ones(1)
    with pytest.raises(CheckpointFileError, match="two tensors have the name '1'"):
        read(tmp_path, {1: one, "1": one})
    with pytest.raises(CheckpointFileError, match="two tensors have the name 'b'"):
        read(tmp_path, {"a": {"b": one}, "a.b": one}, key="a")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, 3, None, []])
def test_no_tensors(tmp_path, content):
    with pytest.raises(CheckpointFileError, match="it holds no tensors"):
        read(tmp_path, content)


@FORMATS
def test_arguments_and_numpy_scalars_beside_the_weights(tmp_path, options):
    """As in the files of MAE, DeiT and DINO; plain weights-only loading refuses them."""
    arguments = argparse.Namespace(
        lr=np.float64(1e-3), epochs=300, device="cuda", betas=(0.9, 0.95), nested={"a": [None, 1]}
    )
    allowed = torch.serialization.get_safe_globals()
    checkpoint = {
        "model": WEIGHTS,
        "args": arguments,
        "best": np.float32(81.5),
        "steps": np.int64(5),
        "flag": np.bool_(True),
    }
    assert_same(read(tmp_path, checkpoint, **options), as_numpy(WEIGHTS))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)
    assert set(torch.serialization.get_safe_globals()) == set(allowed)  # only for this file


def test_older_name_of_numpy_scalars(tmp_path):
    """NumPy 1 wrote `numpy.core.multiarray`, which NumPy 2 calls `numpy._core.multiarray`."""
    torch.save({"model": WEIGHTS, "best": np.float64(1)}, tmp_path / "x.pth", **LEGACY)
    data = (tmp_path / "x.pth").read_bytes()
    assert data.count(b"cnumpy._core.multiarray\nscalar\n") == 1
    (tmp_path / "x.pth").write_bytes(data.replace(b"numpy._core", b"numpy.core"))
    assert_same(read_tensors(tmp_path / "x.pth"), as_numpy(WEIGHTS))


class Harmful:
    """Pickled as the call `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def mkdir(path):
    return Harmful(os.mkdir, os.fspath(path))


def evaluate(path):
    return Harmful(eval, f"__import__('os').mkdir({os.fspath(path)!r})")


@FORMATS
@pytest.mark.parametrize(("harmful", "name"), [(mkdir, "posix.mkdir"), (evaluate, "eval")])
def test_code_is_refused_and_does_not_run(tmp_path, options, harmful, name):
    marker = tmp_path / "ran"
    checkpoint = {"model": WEIGHTS, "args": harmful(marker)}
    with pytest.raises(CheckpointFileError, match=rf"asks for '{name}'.*could run any code"):
        read(tmp_path, checkpoint, **options)
    assert not marker.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert marker.exists()  # so it would have run


@FORMATS
def test_a_whole_module_is_refused(tmp_path, options):
    match = r"asks for 'torch.nn.modules.linear.Linear'.*torch.save\(model.state_dict\(\)"
    with pytest.raises(CheckpointFileError, match=match):
        read(tmp_path, torch.nn.Linear(2, 2), **options)


def test_what_stands_for_arguments_runs_nothing(tmp_path):
    """The state of a namespace may hold a callable only as a global, which is refused."""
    marker = tmp_path / "ran"
    hidden = argparse.Namespace(x=mkdir(marker))
    with pytest.raises(CheckpointFileError, match=r"asks for 'posix.mkdir'"):
        read(tmp_path, {"model": WEIGHTS, "args": hidden})
    assert not marker.exists()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is quantised"),
        (lambda: torch.ones(3, 2).to_sparse(), r"is sparse_coo; expected a dense"),
        (lambda: torch.ones(3, 2).to_sparse_csr(), r"is sparse_csr; expected a dense"),
        (lambda: torch.ones(3, device="meta"), "is on the device 'meta', without values"),
        (lambda: torch.ones(3, 2, dtype=torch.int8), "weights 'x.weight' are quantised"),
    ],
)
def test_tensors_without_an_array_of_floats(tmp_path, tensor, message):
    with pytest.raises(CheckpointFileError, match=message):
        read(tmp_path, {"model": {"x.weight": tensor()}})


@FORMATS
def test_what_is_not_asked_for_may_be_anything(tmp_path, options):
    optimizer = {"state": {0: {"exp_avg": torch.ones(3).to_sparse()}}}
    found = read(tmp_path, {"model": WEIGHTS, "optimizer": optimizer}, **options)
    assert_same(found, as_numpy(WEIGHTS))


@FORMATS
@pytest.mark.parametrize("protocol", [3, 4])
def test_newer_pickles(tmp_path, options, protocol):
    """Protocol 4 has instructions that the weights-only unpickler of PyTorch lacks."""
    try:
        found = read(tmp_path, {"model": WEIGHTS}, pickle_protocol=protocol, **options)
    except CheckpointFileError as error:
        assert protocol == 4 and "pickle" in str(error) and "torch.save" in str(error)
    else:
        assert_same(found, as_numpy(WEIGHTS))


def test_without_pytorch(tmp_path, monkeypatch):
    torch.save(WEIGHTS, tmp_path / "x.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs PyTorch .*: pip install vit_jax\[torch\]"):
        read_tensors(tmp_path / "x.pth")
