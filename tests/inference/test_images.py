"""Which pictures files, folders and patterns stand for."""

import os
from pathlib import Path

import pytest

from vit_jax.errors import MissingFileError, UserError
from vit_jax.inference.images import Picture, class_labels, find_pictures


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Files in folders; what is in them does not matter. Paths are relative to them."""
    for name in ("b/x.JPG", "b/deep/y.png", "a/z.webp", "a/notes.txt", "c[1].gif", "empty/t.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(places):
    return [picture.path.as_posix() for picture in find_pictures(places)]


def test_files_folders_and_patterns(photos):
    everything = ["a/z.webp", "b/deep/y.png", "b/x.JPG", "c[1].gif"]
    assert paths(".") == everything
    assert paths(["b", "a/z.webp", "c[1].gif", "."]) == everything
    assert paths(["b/x.JPG", "./b/x.JPG", photos / "b/x.JPG", "b"]) == ["b/deep/y.png", "b/x.JPG"]
    assert paths("a/notes.txt") == ["a/notes.txt"]  # given by itself, so it is meant
    assert paths("*/*.[JPw]*") == ["a/z.webp", "b/x.JPG"]
    assert paths("**/*.png") == ["b/deep/y.png"]
    assert paths("[b]") == paths("b")
    assert paths(Path("a")) == ["a/z.webp"]


def test_links_are_followed_once(photos):
    os.symlink(photos / "b", photos / "a/link")
    os.symlink(photos, photos / "b/deep/round")
    assert paths("a") == [
        "a/link/deep/round/c[1].gif",
        "a/link/deep/y.png",
        "a/link/x.JPG",
        "a/z.webp",
    ]


@pytest.mark.parametrize(
    "places, message",
    [
        ("nothing.jpg", "no picture or folder at 'nothing.jpg'"),
        (["a", "nowhere"], "no picture or folder at 'nowhere'"),
        ("*.tiff", r"nothing matches '\*\.tiff'"),
        ("empty", r"no pictures in 'empty' or below.*1 of '\.txt'"),
    ],
)
def test_what_is_not_there(photos, places, message):
    with pytest.raises(MissingFileError, match=message):
        find_pictures(places)


def test_what_cannot_be_meant(photos):
    for places, message in (([], "no pictures are given"), ("gs://bucket/a", "copy them")):
        with pytest.raises(UserError, match=message):
            find_pictures(places)


def test_classes_are_the_folders_below_the_one_that_is_given(photos):
    (photos / "c[1].gif").unlink()
    assert class_labels(find_pictures(".")) == (("a", "b"), [0, 1, 1])
    assert class_labels(find_pictures(["a", "."])) is None  # a/z.webp is given by itself too
    assert class_labels(find_pictures("b")) is None
    assert class_labels([Picture(Path("x"), "train"), Picture(Path("y"), "val")]) is None
