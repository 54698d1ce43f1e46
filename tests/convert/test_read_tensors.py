"""Files by their content, folders, shards, and what is damaged or no checkpoint at all."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tests.convert.files import WRITERS, assert_same, tensors
from tests.models import timm_oracle  # makes torchvision, which Transformers imports, importable
from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers import read_json, read_tensors
from vit_jax.convert.writers import write_npz, write_safetensors, write_torch
from vit_jax.errors import MissingFileError

A = {"a": np.ones(2, np.float32)}
B = {"b": np.zeros(3, np.float32)}
INDEX = "model.safetensors.index.json"


# Files


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("name", ["x{}", "0f3a", "x.weights"])
def test_the_content_says_what_a_file_is(tmp_path, suffix, name):
    """Blobs of the hub's cache have no extension."""
    path = tmp_path / name.format(suffix)
    WRITERS[suffix](path, tensors())
    assert_same(read_tensors(path), tensors())
    assert_same(read_tensors(os.fspath(path)), tensors())


@pytest.mark.parametrize(
    ("written", "name", "message"),
    [
        (".npz", "x.safetensors", "called .safetensors but its content is npz: rename it to .npz"),
        (".pth", "x.npz", "called .npz but its content is torch.save"),
        (".safetensors", "x.bin", "called .bin but its content is safetensors"),
        (".npz", "x.PT", "called .PT but its content is npz"),
    ],
)
def test_extension_that_contradicts_the_content(tmp_path, written, name, message):
    WRITERS[written](tmp_path / name, tensors())
    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(tmp_path / name)


def test_torchscript_is_told_from_torch_save(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.npz")
    with pytest.raises(CheckpointFileError, match="its content is TorchScript"):
        read_tensors(tmp_path / "x.npz")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".pt", ".bin", ""])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (LFS, "it is a Git LFS pointer.*`git lfs pull`"),
        (b"<!DOCTYPE html>\n<html lang=en>", "it is an HTML page"),
        (b"\n  <HTML><head>", "it is an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is XML"),
        (b'{"architectures": ["ViTModel"]}', "it is text, probably JSON"),
        (b"\x1f\x8b\x08\x00", "it is compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "it is HDF5"),
        (b"GGUF\x03\x00\x00\x00", "it is GGUF"),
        (b"\x93NUMPY\x01\x00", "it is one .npy array"),
        (b"\x80\x04\x95\x10\x00", "it is a pickle that torch.save did not write"),
        (b"PK\x05\x06" + bytes(18), "it begins with b'PK"),
        (bytes(100), r"it begins with b'\\x00.*expected safetensors, .npz, or what torch.save"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, suffix, content, message):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(path)


def save_compressed(path, arrays):
    np.savez_compressed(path, **arrays)


def save_legacy(path, arrays):
    state = {name: torch.from_numpy(x) for name, x in arrays.items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_script(path, arrays):
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))).save(path)


SAVED = pytest.mark.parametrize(
    ("name", "save"),
    [
        ("x.safetensors", write_safetensors),
        ("x.npz", write_npz),
        ("x.npz", save_compressed),
        ("x.pth", write_torch),
        ("x.pth", save_legacy),
        ("x.pt", save_script),
    ],
    ids=["safetensors", "npz", "npz-compressed", "torch", "torch-legacy", "torchscript"],
)


def small():
    return {"weight": np.arange(60, dtype=np.float32).reshape(3, 20), "bias": np.ones(2)}


@SAVED
def test_truncated_anywhere_is_an_error(tmp_path, name, save):
    path = tmp_path / name
    save(path, small())
    data = path.read_bytes()
    lengths = {1, 4, 8, 9, len(data) - 1, *range(2, len(data), max(1, len(data) // 50))}
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointFileError):
            for tensor in read_tensors(path).values():
                tensor.read()


@SAVED
def test_changed_bytes_give_values_or_the_error(tmp_path, name, save):
    """Whatever the bytes are, no other exception than the one that names the file."""
    path = tmp_path / name
    save(path, small())
    data = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            for tensor in read_tensors(path).values():
                tensor.read()
        except CheckpointFileError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused


# Paths


def test_a_missing_path_says_what_is_there(tmp_path):
    write_safetensors(tmp_path / "weights" / "vit.safetensors", A)
    with pytest.raises(MissingFileError, match=r"does not exist; .*weights holds 'vit.safetensors"):
        read_tensors(tmp_path / "weights" / "vit.pth")
    with pytest.raises(MissingFileError, match="holds 'weights'"):
        read_tensors(tmp_path / "weight" / "deeper" / "vit.pth")


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    write_safetensors(tmp_path / "x.safetensors", A)
    (tmp_path / "config.json").write_text("{}")
    assert_same(read_tensors("~/x.safetensors"), A)
    assert_same(read_tensors("~"), A)
    assert read_json("~", "config.json") == {}


def test_read_json(tmp_path):
    (tmp_path / "config.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(tmp_path, "config.json") == {"a": [1, "é"]}
    assert read_json(tmp_path, "other.json") is None
    with pytest.raises(MissingFileError, match="is no folder"):
        read_json(tmp_path / "nowhere", "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{'a': 1}", "the file is not JSON: "),
        (b"", "the file is not JSON: "),
        (b"\xff\xfe{}", "the file is not JSON: "),
        (b"[1]", "the file is a JSON list; expected an object"),
        (b'{"a": 1, "a": 2}', "the name 'a' twice"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointFileError, match=message):
        read_json(tmp_path, "config.json")


# Folders


def write_all(folder, names):
    """Each file holds one tensor, with the name of the file."""
    for name in names:
        if name.endswith(".json"):
            (folder / name).write_text("{}")
        else:
            WRITERS[os.path.splitext(name.replace(".bin", ".pth"))[1]](
                folder / name, {name: np.ones(2, np.float32)}
            )


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.safetensors", "config.json"], "model.safetensors"),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pth"], "pytorch_model.bin"),
        (["open_clip_model.safetensors", "open_clip_pytorch_model.bin"], "open_clip_model.s"),
        (["open_clip_pytorch_model.bin", "open_clip_config.json"], "open_clip_pytorch_model.bin"),
        (["vit.npz"], "vit.npz"),
        (["mae.pth"], "mae.pth"),
        (["vit.safetensors", "vit.pth"], "vit.safetensors"),
    ],
)
def test_the_checkpoint_of_a_folder(tmp_path, names, taken):
    write_all(tmp_path, names)
    (name,) = read_tensors(tmp_path)
    assert name.startswith(taken)


@pytest.mark.parametrize(
    "names",
    [
        ["a.safetensors", "b.safetensors"],
        ["mae.pth", "mae_finetuned.pth"],
        ["vit.npz", "vit.safetensors"],
        ["vit.npz", "vit.pth"],
    ],
)
def test_several_checkpoints_in_a_folder(tmp_path, names):
    write_all(tmp_path, names)
    match = f"several checkpoints: {', '.join(map(repr, names))}; give the path of one"
    with pytest.raises(CheckpointFileError, match=match):
        read_tensors(tmp_path)


def test_a_folder_without_a_checkpoint(tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(b"x")
    (tmp_path / "model.safetensors").mkdir()
    match = r"holds no checkpoint \(there is 'flax_model.msgpack', 'model.safetensors'\)"
    with pytest.raises(CheckpointFileError, match=match):
        read_tensors(tmp_path)


# Shards


def shards(folder, weight_map=None, **files):
    """A sharded checkpoint: files of one letter each, and an index."""
    files = files or {"one": A, "two": B}
    folder.mkdir(exist_ok=True)
    for stem, arrays in files.items():
        write_safetensors(folder / f"{stem}.safetensors", arrays)
    if weight_map is None:
        weight_map = {k: f"{stem}.safetensors" for stem, arrays in files.items() for k in arrays}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards(tmp_path):
    folder = shards(tmp_path)
    assert_same(read_tensors(folder), A | B)
    assert_same(read_tensors(folder / INDEX), A | B)


@pytest.mark.parametrize("name", ["vit.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_index_of_other_names_and_formats(tmp_path, name):
    suffix = ".bin" if ".bin" in name else ".safetensors"
    write = write_torch if suffix == ".bin" else write_safetensors
    write(tmp_path / f"one{suffix}", A)
    write(tmp_path / f"two{suffix}", B)
    index = {"weight_map": {"a": f"one{suffix}", "b": f"two{suffix}"}}
    (tmp_path / name).write_text(json.dumps(index))
    assert_same(read_tensors(tmp_path), A | B)


def test_shards_that_transformers_writes(tmp_path):
    assert timm_oracle
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path, max_shard_size="2KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2 and (tmp_path / INDEX).exists()
    expected = {name: x for file in files for name, x in load_file(file).items()}
    assert_same(read_tensors(tmp_path), expected)


def test_key_and_prefixes_are_those_of_the_whole(tmp_path):
    """ "module." is in front of every name of one shard, but not of the other."""
    one, two = {"module.a": A["a"]}, {"vision.b": B["b"]}
    shards(tmp_path, one=one, two=two)
    assert_same(read_tensors(tmp_path), one | two)
    assert_same(read_tensors(tmp_path, key="vision"), B)


def test_missing_shards_are_named(tmp_path):
    shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"})
    (tmp_path / "two.safetensors").unlink()
    match = "2 of 3 shards are missing: 'two.safetensors', 'three.safetensors'"
    with pytest.raises(CheckpointFileError, match=match):
        read_tensors(tmp_path)


def test_shards_without_their_index(tmp_path):
    write_all(tmp_path, [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)])
    with pytest.raises(CheckpointFileError, match=f"the index '{INDEX}' is missing"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointFileError, match="it is one of 2 parts; give the folder"):
        read_tensors(tmp_path / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize("place", ["../x.safetensors", "sub/../../x.safetensors", "{}", "..\\x"])
def test_an_index_cannot_leave_its_folder(tmp_path, place):
    outside = tmp_path / "x.safetensors"
    write_safetensors(outside, A)
    folder = shards(tmp_path / "folder", {"a": place.format(outside)})
    with pytest.raises(CheckpointFileError, match="lies outside its folder"):
        read_tensors(folder)
    with pytest.raises(CheckpointFileError, match="lies outside its folder"):
        read_tensors(folder / INDEX)


def test_a_link_cannot_leave_the_folder(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", A)
    folder = shards(tmp_path / "folder", {"a": "link.safetensors"})
    (folder / "link.safetensors").symlink_to(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointFileError, match=r"'link.safetensors', which lies outside"):
        read_tensors(folder)


def hub_cache(tmp_path, subfolder=""):
    """Files are in blobs/ by their hash; a snapshot has links to them."""
    repository = tmp_path / "models--owner--name"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / ("0" * 40)
    shards(tmp_path / "plain")
    blobs.mkdir(parents=True)
    (snapshot / subfolder).mkdir(parents=True)
    for number, name in enumerate(["one.safetensors", "two.safetensors", INDEX]):
        shutil.move(tmp_path / "plain" / name, blobs / f"{number:064x}")
        target = os.path.relpath(blobs / f"{number:064x}", snapshot / subfolder)
        (snapshot / subfolder / name).symlink_to(target)
    return snapshot / subfolder


@pytest.mark.parametrize("subfolder", ["", "vision"])
def test_links_of_the_hub_cache(tmp_path, subfolder):
    assert_same(read_tensors(hub_cache(tmp_path, subfolder)), A | B)


def test_links_of_the_hub_cache_to_elsewhere(tmp_path):
    snapshot = hub_cache(tmp_path)
    write_safetensors(tmp_path / "x.safetensors", A)
    (snapshot / "one.safetensors").unlink()
    (snapshot / "one.safetensors").symlink_to(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointFileError, match=r"'one.safetensors', which lies outside"):
        read_tensors(snapshot)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "two.safetensors", "b": "one.safetensors"}, "'two.safetensors' should hold 'a'"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "'two.safetensors' should hold 'c'"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "'one.safetensors' should hold 'b'"),
        (["a"], "it is no index of shards"),
        ({"a": 1}, "it is no index of shards"),
        ({"a": ""}, "1 of 1 shards are missing"),
    ],
)
def test_an_index_that_is_wrong(tmp_path, weight_map, message):
    with pytest.raises(CheckpointFileError, match=message):
        read_tensors(shards(tmp_path, weight_map))


def test_tensors_that_the_index_does_not_name(tmp_path):
    folder = shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one=A | B, two=B)
    match = "'one.safetensors' holds 'b', for which the index does not name that file"
    with pytest.raises(CheckpointFileError, match=match):
        read_tensors(folder)


def test_shards_that_the_index_does_not_name(tmp_path):
    """Left over from another checkpoint, or the index is."""
    folder = shards(tmp_path)
    write_safetensors(folder / "other.safetensors", A)  # no part of it by its name
    assert_same(read_tensors(folder), A | B)
    write_safetensors(folder / "model-00001-of-00002.safetensors", A)
    match = r"it does not name 'model-00001-of-00002.safetensors', which lies beside it"
    with pytest.raises(CheckpointFileError, match=match):
        read_tensors(folder)


def test_an_index_with_a_name_twice(tmp_path):
    shards(tmp_path)
    text = '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointFileError, match="the index has the name 'a' twice"):
        read_tensors(tmp_path)


def test_importing_the_readers_loads_no_framework():
    program = (
        "import sys, vit_jax.convert.readers, vit_jax.convert.writers\n"
        "assert not {'torch', 'tensorflow', 'jax', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
