"""IDX files: what is written comes back, and what is not IDX is refused."""

import gzip
import struct

import numpy as np
import pytest

from tests.data.pictures import SHARED
from vit_jax import data


def write(path, values, compress=False):
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count, compress in (("train", 7, True), ("t10k", 4, False)):
        ending = ".gz" if compress else ""
        images, labels = rng.integers(0, 256, (count, 5, 6)), np.arange(count) % 3
        write(tmp_path / f"{prefix}-images-idx3-ubyte{ending}", images, compress)
        write(tmp_path / f"{prefix}-labels-idx1-ubyte{ending}", labels, compress)
        np.save(tmp_path / f"{prefix}.npy", images)
    return tmp_path


def test_round_trip(folder):
    train = data.open_source(f"idx:{folder}", "train")
    test = data.open_source(f"idx:{folder}", "test")
    assert (len(train), len(test), train.num_classes) == (7, 4, 3)
    expected = np.load(folder / "t10k.npy")
    for i in range(4):
        np.testing.assert_array_equal(test[i]["image"][:, :, 0], expected[i])
        assert test[i]["label"] == i % 3
    assert train.fingerprint != test.fingerprint


def test_errors(folder):
    with pytest.raises(ValueError, match="no split 'val': it has 'train' and 'test'"):
        data.open_source(f"idx:{folder}", "val")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"not idx")
    with pytest.raises(ValueError, match="no IDX file"):
        data.open_source(f"idx:{folder}", "test")
    write(folder / "t10k-labels-idx1-ubyte", np.arange(3))
    with pytest.raises(ValueError, match="4 images but 3 labels"):
        data.open_source(f"idx:{folder}", "test")
    images = folder / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ValueError, match="should hold 120 values"):
        data.open_source(f"idx:{folder}", "test")
    images.unlink()
    with pytest.raises(FileNotFoundError, match=r"no t10k-images-idx3-ubyte or .*\.gz"):
        data.open_source(f"idx:{folder}", "test")


def test_classes_are_those_of_the_training_labels(folder):
    write(folder / "t10k-labels-idx1-ubyte", np.array([0, 1, 1, 0]))
    test = data.open_source(f"idx:{folder}", "test")
    assert test.class_names == data.open_source(f"idx:{folder}", "train").class_names
    assert test.num_classes == 3


def test_a_test_label_that_training_has_not(folder):
    write(folder / "t10k-labels-idx1-ubyte", np.array([0, 1, 200, 2]))
    with pytest.raises(ValueError, match="test: example 2 has label 200; expected 0 to 2, the"):
        data.open_source(f"idx:{folder}", "test")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, 0, 200, 1, 2],
            r"largest label is 200, but no example has label 3, 4, 5, 6, 7 \.\.\.; expected",
        ),
        ([255, 1, 2, 3, 4, 5, 6], "no example has label 0, 7, 8"),
        (
            [1, 2, 3, 1, 2, 3, 1],
            "label is 3, but no example has label 0; expected all from 0 to 3",
        ),
    ],
)
def test_a_class_without_training_examples(folder, split, labels, message):
    write(folder / "train-labels-idx1-ubyte.gz", np.array(labels), compress=True)
    with pytest.raises(ValueError, match=message):
        data.open_source(f"idx:{folder}", split)


@pytest.mark.skipif(not (SHARED / "fashion_mnist").is_dir(), reason="no Fashion-MNIST here")
def test_fashion_mnist():
    """Xiao et al. (2017): 60,000 and 10,000 images, as many of each class."""
    for split, count in (("train", 60_000), ("test", 10_000)):
        source = data.open_source(f"idx:{SHARED / 'fashion_mnist'}", split)
        assert source.images.shape == (count, 28, 28)
        np.testing.assert_array_equal(np.bincount(source.labels), count // 10)
