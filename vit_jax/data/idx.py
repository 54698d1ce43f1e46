"""IDX files, the format of MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST): `idx:PATH`.

The folder holds, each as it is or with `.gz`:

    train-images-idx3-ubyte  train-labels-idx1-ubyte  t10k-images-idx3-ubyte  t10k-labels-idx1-ubyte

An IDX file is four bytes (zero, zero, type, number of axes), one big-endian uint32 an axis, and
the values in row-major order (LeCun's page on MNIST). Splits are "train" and "test"; classes are
named by their number. They are those of the training labels, which begin at 0 and have no gaps: the
letters of EMNIST, which begin at 1, have to be renumbered.
"""

import gzip
import hashlib
import math
import struct
from pathlib import Path

import numpy as np

from vit_jax import storage
from vit_jax.data.sources import Example, Source
from vit_jax.errors import MissingFileError, UserError

PREFIXES = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 0x08


class IdxSource(Source):
    """Grey images in memory, `(n, h, w)` uint8, with their labels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, num_classes: int, name: str):
        self.images = images
        self.labels = labels
        self.name = name
        self.class_names = tuple(map(str, range(num_classes)))
        digest = hashlib.sha256(labels.tobytes() + images.tobytes()).hexdigest()
        self.fingerprint = f"idx:{len(labels)}:{digest}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        """One image `(h, w, 1)`."""
        image = self.images[index][:, :, None]
        return {"image": image, "label": int(self.labels[index]), "name": f"{self.name}[{index}]"}


def open_source(path: str, split: str, data_dir: str | None = None) -> IdxSource:
    """Opens a split of a folder of IDX files.

    Args:
      path: the folder, or its URL; `~` is the home directory.
      split: "train" or "test".
      data_dir: not used.

    Raises:
      MissingFileError: a file is missing.
      UserError: unknown split, a file is not what its name says, or a label that is no class.
    """
    del data_dir
    if split not in PREFIXES:
        raise UserError(f"IDX folder {path!r} has no split {split!r}: it has 'train' and 'test'")
    storage.check(path)
    folder = storage.path(path).expanduser()
    images = read_idx(_find(folder, f"{PREFIXES[split]}-images-idx3-ubyte"), axes=3)
    labels = _read_labels(folder, split)
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{path!r}, {split}: {len(images)} images but {len(labels)} labels")
    num_classes = _count_classes(_read_labels(folder, "train"), path)
    if labels.max() >= num_classes:
        raise UserError(
            f"{path!r}, {split}: example {labels.argmax()} has label {labels.max()}; expected 0 to "
            f"{num_classes - 1}, the labels of the training split"
        )
    return IdxSource(images, labels, num_classes, f"{folder / PREFIXES[split]}-images")


def _read_labels(folder: Path, split: str) -> np.ndarray:
    return read_idx(_find(folder, f"{PREFIXES[split]}-labels-idx1-ubyte"), axes=1)


def _count_classes(labels: np.ndarray, path: str) -> int:
    """Returns the number of classes of training labels; raises UserError where one has none."""
    largest = int(labels.max(initial=0))
    missing = sorted(set(range(largest + 1)) - set(labels.tolist()))
    if missing:
        raise UserError(
            f"{path!r}, train: the largest label is {largest}, but no example has label "
            f"{', '.join(map(str, missing[:5]))}{' ...' if len(missing) > 5 else ''}; expected all "
            f"from 0 to {largest}: correct a stray label, or number the classes without gaps"
        )
    return largest + 1


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads one IDX file of unsigned bytes.

    Raises:
      UserError: it is not one, has another number of axes, or is cut short.
    """
    data = storage.read_bytes(path)
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    header = 4 + 4 * axes
    if len(data) < header or data[:4] != bytes([0, 0, _UNSIGNED_BYTE, axes]):
        raise UserError(
            f"{path} is no IDX file of unsigned bytes with {axes} axes: it begins with {data[:4]!r}"
        )
    shape = struct.unpack(f">{axes}I", data[4:header])
    if len(data) != header + math.prod(shape):
        raise UserError(
            f"{path} should hold {math.prod(shape)} values {shape}, it holds {len(data) - header}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise MissingFileError(f"no {name} or {name}.gz in {str(folder)!r}")
