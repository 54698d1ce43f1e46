"""Features on the disk: `.npz` for NumPy, `.parquet` for tables.

| | `.npz` | `.parquet` |
|---|---|---|
| paths | `paths`, text | column `path` |
| features | `features`, (pictures, ...) | column `features`, a flat list of fixed length each |
| shape of one | of `features` | `shape` in the metadata of the schema, as JSON |
| classes by folder | `labels`, `class_names` | columns `label`, `class` |

A file appears under its name only when all of it is on the disk.
"""

import json
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vit_jax import storage
from vit_jax.convert.writers import beside
from vit_jax.errors import MissingFileError, UserError

if TYPE_CHECKING:
    from vit_jax.inference.features import Features


def check(output: str | os.PathLike[str]) -> None:
    """Looks whether features can be written to a file, before they are computed.

    Raises:
        UserError: it is there already, ends otherwise than in `.npz` or `.parquet`, or needs a
            library that is not installed.
    """
    path = Path(output)
    if path.suffix not in WRITERS:
        raise UserError(f"{path} ends in {path.suffix!r}: expected one of {', '.join(WRITERS)}")
    if path.exists():
        raise UserError(f"{path} is already there: choose another --output, or remove it")
    if path.suffix == ".parquet":
        _pyarrow()


def write(output: str | os.PathLike[str], found: "Features") -> None:
    """Writes features; see the module.

    Raises:
        UserError: see `check`; or the system refuses to write.
    """
    check(output)
    path = Path(output)
    with storage.writing(path), beside(path) as file:
        WRITERS[path.suffix](file, found)


def _write_npz(file: BinaryIO, found: "Features") -> None:
    arrays = {"paths": np.asarray(_texts(found)), "features": found.features}
    if found.labels is not None:
        arrays.update(labels=found.labels, class_names=np.asarray(found.class_names))
    np.savez(file, **arrays)


def _write_parquet(file: BinaryIO, found: "Features") -> None:
    pa = _pyarrow()
    import pyarrow.parquet

    flat = pa.array(found.features.reshape(-1))
    size = int(np.prod(found.features.shape[1:]))
    columns = {"path": _texts(found), "features": pa.FixedSizeListArray.from_arrays(flat, size)}
    if found.labels is not None:
        columns["label"] = found.labels
        columns["class"] = [found.class_names[label] for label in found.labels]
    shape = json.dumps(found.features.shape[1:])
    table = pa.table(columns).replace_schema_metadata({"shape": shape})
    pyarrow.parquet.write_table(table, file)


def read(path: str | os.PathLike[str]) -> "Features":
    """Reads what `write` wrote.

    Raises:
        MissingFileError: there is no such file.
        UserError: it holds no features, or needs a library that is not installed.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise UserError(f"{path} ends in {path.suffix!r}: expected one of {', '.join(READERS)}")
    if path.suffix == ".parquet":
        _pyarrow()
    if not path.is_file():
        raise MissingFileError(f"no features at {path}: vit-jax features writes them")
    try:
        return READERS[path.suffix](path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no features of vit-jax features: {error}") from error


def _read_npz(path: Path) -> "Features":
    with np.load(path, allow_pickle=False) as arrays:
        paths = tuple(map(Path, arrays["paths"].tolist()))
        features = arrays["features"]
        if "labels" not in arrays:
            return _features(paths, features)
        return _features(paths, features, arrays["labels"], tuple(arrays["class_names"].tolist()))


def _read_parquet(path: Path) -> "Features":
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    shape = json.loads(table.schema.metadata[b"shape"])
    flat = table["features"].combine_chunks().flatten().to_numpy()
    paths, features = tuple(map(Path, table["path"].to_pylist())), flat.reshape(-1, *shape)
    if "label" not in table.column_names:
        return _features(paths, features)
    labels, names = table["label"].to_numpy(), table["class"].to_pylist()
    of_label = dict(zip(labels.tolist(), names))
    if sorted(of_label) != list(range(len(of_label))):
        raise UserError("some classes have no picture, so their names are missing; write .npz")
    return _features(paths, features, labels, tuple(of_label[i] for i in range(len(of_label))))


def _features(*parts: Any) -> "Features":
    from vit_jax.inference.features import Features

    return Features(*parts)


READERS = {".npz": _read_npz, ".parquet": _read_parquet}
WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}


def _texts(found: "Features") -> list[str]:
    """The paths as text, which in a file is UTF-8.

    Raises:
        UserError: one is not.
    """
    for path in found.paths:
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the name of {os.fspath(path)!r} is no UTF-8: rename the file"
            ) from error
    return [os.fspath(path) for path in found.paths]


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f".parquet files need pyarrow ({error}): pip install vit_jax[parquet], or write .npz"
        ) from error
    return pyarrow
