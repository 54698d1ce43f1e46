"""Where examples come from: `open_source(spec, split)` gives a `Source`, a sequence of examples.

| spec | what it reads |
|---|---|
| `digits` | the embedded data set, see `vit_jax/data/digits` |
| `tfds:NAME[/CONFIG][:VERSION]` | a TFDS data set prepared as ArrayRecord, see `tfds_source` |
| `folder:PATH` | a folder of images, see `folder` |
| `idx:PATH` | a folder with the IDX files of MNIST and its kin, see `idx` |

A PATH may be a URL, `gs://BUCKET/...` or `s3://BUCKET/...` (docs/storage.md).

Images stay encoded: decoding belongs to the transform, which may need only a part of the picture.
"""

import abc
import importlib
from typing import TypedDict

import numpy as np

from vit_jax.errors import UserError
from vit_jax.naming import unknown


class Example(TypedDict):
    """One example. `name` says in an error which file or record it is."""

    image: bytes | np.ndarray
    label: int
    name: str


class Source(abc.ABC):
    """A sequence of examples in a fixed order, safe to read from threads and to pickle.

    Attributes:
      class_names: one name a class; the label is the index.
      fingerprint: the same text exactly when the same examples come in the same order, as far as
        can be told without reading them all.
    """

    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """How many classes there are: labels are 0 to num_classes - 1."""
        return len(self.class_names)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example: ...


# scheme -> module with `open_source(rest_of_spec, split, data_dir)`, loaded when it is used
SCHEMES = {
    "digits": "vit_jax.data.digits.source",
    "tfds": "vit_jax.data.tfds_source",
    "folder": "vit_jax.data.folder",
    "idx": "vit_jax.data.idx",
}


def open_source(spec: str, split: str, data_dir: str | None = None) -> Source:
    """Opens one split of a data set.

    Args:
      spec: "digits", `tfds:NAME[/CONFIG][:VERSION]`, "folder:PATH" or "idx:PATH".
      split: the name of a split, such as "train"; for TFDS also a part of one, "train[:90%]".
      data_dir: where prepared TFDS data sets are; None is the TFDS default: the environment
        variable TFDS_DATA_DIR, or ~/tensorflow_datasets.

    Returns:
      The split as a `Source`.

    Raises:
      UserError: the source or the split is unknown (the message lists what there is), or holds no
        labelled images.
      MissingFileError: the folder does not exist or is empty, or the TFDS data set is not
        prepared (the message has the command that prepares it).
    """
    scheme, _, rest = spec.partition(":")
    expected = "expected 'digits', 'tfds:NAME', 'folder:PATH' or 'idx:PATH'"
    if scheme not in SCHEMES:
        raise UserError(f"data source {spec!r}: {unknown('kind', scheme, SCHEMES)} ({expected})")
    if (scheme == "digits") == bool(rest):
        raise UserError(f"data source {spec!r}: {expected}")
    return importlib.import_module(SCHEMES[scheme]).open_source(rest, split, data_dir)
