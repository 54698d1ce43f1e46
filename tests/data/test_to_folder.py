"""What is written as a folder is read from it again."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax import data
from vit_jax.data.decode import decode
from vit_jax.data.sources import Source
from vit_jax.errors import UserError


class Pictures(Source):
    """Six pictures of three classes: arrays, grey and coloured, and a JPEG."""

    class_names = ("ant", "bee", "cow")
    fingerprint = "six"

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (5, 4, c), np.uint8) for c in (1, 3, 1, 3, 3)]
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).save(file, "JPEG")
        self.images.append(file.getvalue())

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": (0, 1, 1, 0, 0, 2)[index], "name": str(index)}


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_it_is_read_again(tmp_path):
    source = Pictures()
    files = data.write_folder(source, tmp_path / "new")
    assert names(files, tmp_path / "new") == [
        "ant/00000.png",
        "bee/00001.png",
        "bee/00002.png",
        "ant/00003.png",
        "ant/00004.png",
        "cow/00005.jpeg",
    ]
    for file, image in zip(files, source.images):
        if isinstance(image, bytes):
            assert file.read_bytes() == image
        else:
            np.testing.assert_array_equal(decode(file.read_bytes(), image.shape[-1]), image)


def test_the_digits_are_those_of_the_folder(tmp_path):
    digits = data.open_source("digits", "test")
    data.write_folder(digits, tmp_path / "test")
    folder = data.open_source(f"folder:{tmp_path}", "test")
    assert (len(folder), folder.class_names) == (len(digits), digits.class_names)
    by_class = sorted((digits[i] for i in range(len(digits))), key=lambda x: x["label"])
    assert [bytes(x["image"]) for x in by_class] == [folder[i]["image"] for i in range(len(folder))]


def test_some_classes_and_so_many_of_each(tmp_path):
    chosen = dict(classes=["ant", "cow"], per_class=2)
    files = data.write_folder(Pictures(), tmp_path / "new", **chosen)
    assert names(files, tmp_path / "new") == ["ant/00000.png", "ant/00003.png", "cow/00005.jpeg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["ant", "cow"]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(classes=["ant", "bees"]), "unknown class 'bees': did you mean 'bee'"),
        (dict(per_class=0), "per_class is 0"),
        (dict(), r"ant is already there, and not .* \(see 00000.png\): choose another folder"),
    ],
)
def test_bad_requests(tmp_path, options, message):
    (tmp_path / "ant").mkdir()
    with pytest.raises(UserError, match=message):
        data.write_folder(Pictures(), tmp_path, **options)


def test_what_is_there_already_stays(tmp_path):
    """More classes may come; a class with other files is another one."""
    written = [data.write_folder(Pictures(), tmp_path, classes=["ant", "cow"]) for _ in "12"]
    assert written[0] == written[1]
    kept = {path: path.read_bytes() for path in written[0]}
    (tmp_path / "ant/.hidden").touch()
    assert set(data.write_folder(Pictures(), tmp_path)) > set(kept)
    assert {path: path.read_bytes() for path in kept} == kept
    other = r"ant is already there, and not as it would be written \(see {}\)"
    with pytest.raises(UserError, match=other.format("00003.png")):
        data.write_folder(Pictures(), tmp_path, classes=["ant"], per_class=1)
    (tmp_path / "ant/00003.png").write_bytes(b"another picture")
    (tmp_path / "cow/00005.jpeg").unlink()
    (tmp_path / "cow").rmdir()
    with pytest.raises(UserError, match=other.format("00003.png")):
        data.write_folder(Pictures(), tmp_path)
    assert not (tmp_path / "cow").exists()  # nothing is written before that
    assert (tmp_path / "ant/00003.png").read_bytes() == b"another picture"


def test_a_class_written_twice_is_written_once(tmp_path):
    files = data.write_folder(Pictures(), tmp_path, classes=["cow", "cow"])
    assert names(files, tmp_path) == ["cow/00005.jpeg"]


@pytest.mark.parametrize("name", ["/a/abbey", "a/abbey", "..", ".a", "a\\b", ""])
def test_a_class_that_is_no_folder(tmp_path, name):
    """Of SUN397 all are paths."""
    source = Pictures()
    source.class_names = ("ant", "bee", name)
    with pytest.raises(UserError, match=r"class '.*' cannot be a folder of its own"):
        data.write_folder(source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_picture_is_named(tmp_path):
    source = Pictures()
    source.images[2] = b"no picture"
    with pytest.raises(UserError, match="cannot decode 2: "):
        data.write_folder(source, tmp_path)
