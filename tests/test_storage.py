"""Paths of object stores, against servers of S3 and of Google Cloud Storage on this machine."""

import importlib.util
import os
import socket
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.data.pictures import encode, smooth
from tests.object_stores import BUCKET
from vit_jax import data, storage
from vit_jax.convert.folder import check_free
from vit_jax.data import tfds_source
from vit_jax.data.digits.builder import SklearnDigits
from vit_jax.errors import MissingFileError, UserError
from vit_jax.training.metrics import MetricWriter, read_metrics


def put(place, files):
    """Writes files by their names below a folder."""
    folder = storage.path(place)
    for name, content in files.items():
        file = folder / name
        storage.make_folder(file.parent)
        file.write_bytes(content)
    return folder


def test_a_folder_is_what_lies_in_it(place):
    folder = put(place, {"a/x.txt": b"1", "a/b/y.txt": b"2", "z.txt": b"3"})
    assert storage.entries(folder) == {"a": True, "z.txt": False}
    assert storage.entries(folder / "none") == {}
    assert storage.files_below(folder) == ["a/b/y.txt", "a/x.txt", "z.txt"]
    storage.move_folder(folder / "a", folder / "new" / "place")
    assert storage.files_below(folder) == ["new/place/b/y.txt", "new/place/x.txt", "z.txt"]
    assert storage.read_bytes(folder / "new" / "place" / "b" / "y.txt") == b"2"
    storage.check(folder)
    storage.check(folder / "none")


def test_a_path_is_the_text_that_was_given(place):
    assert os.fspath(storage.path(place + "/")) == place
    assert os.fspath(storage.absolute(place) / "x") == f"{place}/x"
    assert storage.is_remote(place) and storage.is_remote(storage.path(place))
    assert not storage.is_remote("runs/gs") and not storage.is_remote(None)
    assert not storage.is_path("hf://owner/name") and storage.is_path("runs/digits")


def test_what_another_process_writes_is_seen(place):
    folder = storage.path(place)
    assert not (folder / "file").exists() and storage.entries(folder) == {}
    scheme = place.split(":")[0]
    other = fsspec.filesystem(scheme, skip_instance_cache=True)
    other.pipe_file(f"{place}/file", b"1")
    assert (folder / "file").exists() and storage.entries(folder) == {"file": False}


def test_a_file_that_grows(place, monkeypatch):
    file = storage.path(place) / "log"
    log = storage.open_log(file)
    log.write(b"one ")
    log.flush()
    assert not file.exists()  # not before its time
    log.sync()
    assert file.read_bytes() == b"one "
    log.write(b"two ")
    monkeypatch.setattr(storage, "UPLOAD_SECONDS", 0)
    log.flush()
    assert file.read_bytes() == b"one two "
    later = storage.open_log(file)
    later.write(b"three")
    later.close()
    later.close()
    assert file.read_bytes() == b"one two three"


def test_metrics_have_every_step_once(place):
    """Killed after a checkpoint of step 2 and some more steps, of which step 3 was uploaded."""
    writer = MetricWriter(place)
    for step in (1, 2):
        writer.write(step, "train", {"loss": step})
    writer.sync()
    assert [line["step"] for line in read_metrics(place)] == [1, 2]
    writer.write(3, "train", {"loss": 3})
    writer.sync()
    writer.write(4, "train", {"loss": 4})  # lost
    resumed = MetricWriter(place, resume_step=2)
    for step in (3, 4):
        resumed.write(step, "train", {"loss": -step})
    resumed.close()
    assert [(x["step"], x["loss"]) for x in read_metrics(place)] == [
        (1, 1),
        (2, 2),
        (3, -3),
        (4, -4),
    ]
    events = storage.files_below(storage.path(place) / "tensorboard")
    assert len(events) == 2 and all("tfevents" in name for name in events)


def test_a_bucket_that_there_is_not(place):
    scheme = place.split(":")[0]
    with pytest.raises(UserError) as error:
        storage.check(f"{scheme}://nobodys/run")
    message = f"{scheme}://nobodys/run: there is no bucket 'nobodys'; make it, or give another"
    assert str(error.value) == message
    files = storage.filesystem(storage.path(place))
    assert "nobodys" not in [name.strip("/") for name in files.ls("")]  # none was made


def test_a_store_that_does_not_answer(place, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        scheme = place.split(":")[0]
        files = fsspec.filesystem(scheme, endpoint_url=endpoint, skip_instance_cache=True)
        monkeypatch.setattr(storage, "filesystem", lambda path: files)
        monkeypatch.setattr(storage, "ANSWER_SECONDS", 1)
        began = time.monotonic()
        with pytest.raises(UserError, match=f"{place}: no answer within 1 s; is there a way to it"):
            storage.check(place)
        assert time.monotonic() - began < 5


def test_a_store_that_refuses(place, monkeypatch):
    class Refusing:
        def ls(self, path):
            raise PermissionError("Access Denied\nrequest 12")

    monkeypatch.setattr(storage, "filesystem", lambda path: Refusing())
    with pytest.raises(UserError) as error:
        storage.check(place)
    assert str(error.value) == (
        f"{place}: it cannot be listed (Access Denied); are endpoint and credentials right?"
    )


@pytest.mark.parametrize("scheme, library", storage.SCHEMES.items())
def test_a_library_that_is_not_installed(scheme, library, monkeypatch):
    found = importlib.util.find_spec
    without = lambda name: None if name == library else found(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=f"{scheme}://... is read by {library}, .*: pip install"):
        storage.path(f"{scheme}://{BUCKET}/run")


def same_examples(one, other):
    assert len(one) == len(other) and one.class_names == other.class_names
    assert one.fingerprint == other.fingerprint
    for i in range(len(one)):
        assert one[i]["label"] == other[i]["label"]
        assert np.array_equal(one[i]["image"], other[i]["image"])


PNG = encode(smooth(4, 4))


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("above", ["", "train/"])
def test_a_folder_of_images(place, tmp_path, split, above):
    """With splits of its own, and divided: the same examples as from a disk."""
    names = [f"{above}{label}/{i}.png" for label in "ba" for i in range(3)]
    names += [f"{above}a/deep/4.JPG", f"{above}b/notes.txt"]
    names += ["val/a/1.png", "val/b/2.png"] if above else []
    content = {name: PNG + bytes([i]) for i, name in enumerate(names)}
    for folder in (place, tmp_path):
        put(folder, content)
    ours, theirs = (data.open_source(f"folder:{x}", split) for x in (place, tmp_path))
    same_examples(ours, theirs)
    assert ours[0]["name"].startswith(place)


def test_folders_that_are_missing_or_empty(place):
    for spec, message in (("folder", "no folder '.*none'"), ("idx", "no train-images-idx3-ubyte")):
        with pytest.raises(MissingFileError, match=message):
            data.open_source(f"{spec}:{place}/none", "train")
    put(place, {"a/notes.txt": b""})
    with pytest.raises(MissingFileError, match=r"no images in 'a'.*1 of '\.txt'"):
        data.open_source(f"folder:{place}", "train")


def test_idx_files(place, tmp_path):
    images, labels = np.arange(24, dtype=np.uint8), np.arange(2, dtype=np.uint8)
    content = {
        "train-images-idx3-ubyte": b"\0\0\x08\3\0\0\0\2\0\0\0\3\0\0\0\4" + images.tobytes(),
        "train-labels-idx1-ubyte": b"\0\0\x08\1\0\0\0\2" + labels.tobytes(),
    }
    for folder in (place, tmp_path):
        put(folder, content)
    same_examples(*(data.open_source(f"idx:{x}", "train") for x in (place, tmp_path)))


def test_tfds(place, monkeypatch):
    """From Google's store ArrayRecord reads by itself, without TensorFlow; S3 is refused."""
    if place.startswith("s3"):
        with pytest.raises(UserError, match=r"from gs://, not from S3; copy them .aws s3 sync s3:"):
            data.open_source("tfds:mnist", "train", place)
        return
    local = data.open_source("digits", "test")
    folder = os.path.dirname(SklearnDigits(file_format="array_record").data_dir)
    files = storage.filesystem(storage.path(place))
    files.put(folder, f"{place}/sklearn_digits", recursive=True)
    monkeypatch.setattr(
        tfds_source.tfds,
        "builder",
        lambda name, data_dir: SklearnDigits(data_dir=data_dir, file_format="array_record"),
    )
    remote = data.open_source("tfds:sklearn_digits", "test", place)
    assert remote.fingerprint == local.fingerprint and len(remote) == 360
    for i in (0, 359):
        assert np.array_equal(remote[i]["image"], local[i]["image"])


def test_the_digits_are_not_prepared_in_a_bucket(place):
    with pytest.raises(UserError, match="are prepared in a folder of a file system; leave"):
        data.open_source("digits", "train", place)


def test_weights_are_not_written_to_a_bucket(place):
    with pytest.raises(UserError, match="weights are written to a file system"):
        check_free(Path(place))


def test_what_the_system_refuses_to_write_is_named(tmp_path):
    expected = f"cannot write {tmp_path}: .*directory"
    with pytest.raises(UserError, match=expected), storage.writing(tmp_path):
        tmp_path.write_text("a folder")
    said = "there is none"  # by an OSError that says enough
    with pytest.raises(MissingFileError, match=rf"^{said}$"), storage.writing(tmp_path):
        raise MissingFileError(said)
