"""Folders of images: splits, labels, the division of a single folder, errors that list."""

import collections
import os
import random

import numpy as np
import pytest

from tests.data.pictures import encode, smooth
from vit_jax import data
from vit_jax.data.folder import divide

PNG = encode(smooth(4, 4))


def make(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return f"folder:{root}"


def names(source):
    return [os.path.relpath(source[i]["name"], source.root) for i in range(len(source))]


def test_given_splits(tmp_path):
    spec = make(
        tmp_path, "train/cat/1.png", "train/dog/2.JPG", "train/ant/deep/3.webp", "val/dog/4.png"
    )
    train = data.open_source(spec, "train")
    assert train.class_names == ("ant", "cat", "dog")
    assert names(train) == ["ant/deep/3.webp", "cat/1.png", "dog/2.JPG"]
    assert [train[i]["label"] for i in range(3)] == [0, 1, 2]
    assert train[0]["image"] == PNG
    for name in ("val", "validation", "valid"):
        val = data.open_source(spec, name)
        assert (names(val), val[0]["label"], val.num_classes) == (["dog/4.png"], 2, 3)
    assert train.fingerprint != val.fingerprint
    with pytest.raises(ValueError, match="no split 'test': it has train, val"):
        data.open_source(spec, "test")


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
def test_eval_is_the_evaluation_split_that_there_is(tmp_path, name):
    spec = make(tmp_path, "train/a/1.png", "train/b/2.png", f"{name}/b/3.png")
    source, expected = (data.open_source(spec, split) for split in ("eval", name))
    assert (names(source), source.class_names) == (["b/3.png"], ("a", "b"))
    assert source.fingerprint == expected.fingerprint


def test_eval_of_a_divided_folder_is_its_test_split(tmp_path):
    spec = make(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(20)))
    assert names(data.open_source(spec, "eval")) == names(data.open_source(spec, "test"))


def test_no_guessing_between_two_evaluation_splits(tmp_path):
    spec = make(tmp_path, "train/a/1.png", "test/a/2.png", "val/a/3.png")
    with pytest.raises(ValueError, match=r"has 'val' and 'test', and the split 'eval' may"):
        data.open_source(spec, "eval")
    make(tmp_path, "valid/a/4.png")
    with pytest.raises(ValueError, match=r"has 'val' and 'valid', .*: ask for the one you mean"):
        data.open_source(spec, "validation")
    for name, file in (("test", 2), ("val", 3), ("valid", 4)):
        assert names(data.open_source(spec, name)) == [f"a/{file}.png"]


def test_links_are_followed_once(tmp_path):
    """A loop, a second way to a folder inside and one to a folder outside of the class."""
    spec = make(tmp_path / "set", "a/1.png", "a/deep/2.png", "b/3.png")
    make(tmp_path, "elsewhere/4.png")
    for link, to in (("loop", "a"), ("deep/up", "a"), ("same", "a/deep")):
        (tmp_path / "set/a" / link).symlink_to(tmp_path / "set" / to)
    for link in ("x", "y"):
        (tmp_path / "set/a" / link).symlink_to(tmp_path / "elsewhere")
    train, test = (names(data.open_source(spec, split)) for split in ("train", "test"))
    assert sorted(train + test) == ["a/1.png", "a/deep/2.png", "a/x/4.png", "b/3.png"]


def test_a_class_may_be_a_link(tmp_path):
    spec = make(tmp_path / "set", "train/a/1.png", "val/a/3.png")
    make(tmp_path, "elsewhere/2.png")
    (tmp_path / "set/train/b").symlink_to(tmp_path / "elsewhere")
    assert names(data.open_source(spec, "train")) == ["a/1.png", "b/2.png"]


def test_a_folder_in_two_classes(tmp_path):
    spec = make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"/b' is in two classes, 'a' and \(as '.*/b'\) 'b'"):
        data.open_source(spec, "train")


def test_an_evaluation_split_alone(tmp_path):
    source = data.open_source(make(tmp_path, "test/a/1.png", "test/b/2.png"), "test")
    assert (source.class_names, len(source)) == (("a", "b"), 2)


def test_a_class_that_train_has_not(tmp_path):
    spec = make(tmp_path, "train/cat/1.png", "test/cat/2.png", "test/cta/3.png")
    with pytest.raises(ValueError, match=r"has not: cta. The 1 classes of train: 'cat'"):
        data.open_source(spec, "test")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_one_folder_of_classes_is_divided(tmp_path, prefix):
    files = [f"{prefix}{c}/{i}.png" for c in ("a", "b", "c") for i in range(40)]
    spec = make(tmp_path, *files, f"{prefix}d/only.png", f"{prefix}e/1.png", f"{prefix}e/2.png")
    train, test = (data.open_source(spec, split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("a", "b", "c", "d", "e")
    assert not set(names(train)) & set(names(test))
    assert len(train) + len(test) == 123
    counts = collections.Counter(test[i]["label"] for i in range(len(test)))
    assert counts == {0: 4, 1: 4, 2: 4, 4: 1}
    with pytest.raises(ValueError, match="no split 'val': it has train, test"):
        data.open_source(spec, "val")


def test_the_division_depends_on_the_paths_alone(tmp_path):
    files = [f"a/{i}.png" for i in range(50)]
    shuffled = random.Random(0).sample(files, 50)
    assert divide(files) == divide(shuffled)
    here, there = (
        data.open_source(make(tmp_path / where, *order), "test")
        for where, order in (("x", files), ("y", shuffled))
    )
    assert names(here) == names(there)
    assert here.fingerprint == there.fingerprint
    # Fixed for ever: a run that is resumed after an upgrade must not train on test images.
    assert names(here) == ["a/0.png", "a/19.png", "a/20.png", "a/41.png", "a/46.png"]


def test_other_files_are_left_out_aloud(tmp_path, caplog):
    spec = make(tmp_path, "a/1.png", "a/2.png", "a/notes.txt", "a/Thumbs.db", ".cache/b/1.png")
    assert data.open_source(spec, "train").class_names == ("a",)
    assert "left out files that are not images: {'.db': 1, '.txt': 1}" in caplog.text.replace(
        "{'.txt': 1, '.db': 1}", "{'.db': 1, '.txt': 1}"
    )


def test_errors_say_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        data.open_source(f"folder:{tmp_path}/nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"no class folders: .* found nothing"):
        data.open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "x.png").write_bytes(PNG)
    with pytest.raises(FileNotFoundError, match=r"no class folders: .* found 'x\.png'"):
        data.open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.heic").write_bytes(PNG)
    with pytest.raises(FileNotFoundError, match=r"no images in 'cat'; .* 1 of '\.heic'"):
        data.open_source(f"folder:{tmp_path}", "train")
    make(tmp_path / "one", "a/1.png")
    with pytest.raises(FileNotFoundError, match="no class has two images"):
        data.open_source(f"folder:{tmp_path}/one", "test")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown kind 'digit': did you mean 'digits'"),
        ("folders:x", "unknown kind 'folders': did you mean 'folder'"),
        ("folder:", "expected 'digits', 'tfds:NAME', 'folder:PATH'"),
        ("digits:8x8", "expected 'digits', "),
    ],
)
def test_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        data.open_source(spec, "train")


def test_a_folder_through_the_pipeline(tmp_path):
    make(tmp_path, *(f"{c}/{i}.png" for c in "abc" for i in range(10)))
    (tmp_path / "b/broken.jpg").write_bytes(b"oops")
    source = data.open_source(f"folder:{tmp_path}", "train")
    transform = data.build_transform("resize", 4)
    with (
        data.train_batches(source, transform, batch_size=28, seed=0) as batches,
        pytest.raises(data.DecodeError, match=r"cannot decode .*b/broken\.jpg: it is not"),
    ):
        next(batches)
    with data.eval_batches(source, transform, batch_size=28, on_error="skip") as batches:
        batch = next(batches)
    assert np.bincount(batch["label"][batch["mask"] > 0]).tolist() == [9, 9, 9]
