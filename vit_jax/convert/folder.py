"""A converted model on disk: an Orbax checkpoint and a `model.json` that says what it is.

model.json   module, hyper-parameters, preprocessing, where the weights came from
params/      the parameters, written by Orbax
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ranges, storage
from vit_jax.convert.params import by_path, shapes_of
from vit_jax.convert.readers import read_json
from vit_jax.convert.settings import OBJECT, Settings, read_preprocessing
from vit_jax.errors import MissingFileError, UserError
from vit_jax.models import registry
from vit_jax.models.partitioning import PlainModule

DESCRIPTION = "model.json"
PARAMS = "params"
VERSION = 1
# What the parts of the description may be.
RANGES = {
    "name": ranges.or_none(ranges.TEXT),
    "module": ranges.TEXT,
    **dict.fromkeys(("hyper_parameters", "preprocessing", "origin"), OBJECT),
    "class_names": ranges.or_none(ranges.several(ranges.TEXT)),
    "probabilities": ranges.one_of(("softmax", "sigmoid")),
}
# Of keys that the first files did not have.
DEFAULTS = {"class_names": None, "probabilities": "softmax"}
LIBRARIES = ("vit_jax", "jax", "flax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Model:
    """A module, its parameters and what goes with them.

    Attributes:
        module: the Flax module.
        params: its parameters, without the "params" level.
        preprocessing: how its images are prepared.
        name: its registered name, where it has one.
        origin: where the weights came from, for people: names and strings.
        class_names: what its outputs are called, one name each; None where nobody knows.
        probabilities: what makes them of logits: "softmax", or "sigmoid" where each class was
            learned by itself.

    Raises:
        UserError: there is not one name for each output.
    """

    module: PlainModule
    params: Mapping[str, Any]
    preprocessing: registry.Preprocessing
    name: str | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    probabilities: str = "softmax"

    def __post_init__(self):
        _check_names(self.class_names, self.module)


def _check_names(names: Sequence[str] | None, module: PlainModule) -> None:
    """Raises UserError for names that are not one for each output."""
    if names is not None and len(names) != module.num_classes:
        raise UserError(
            f"class_names has {len(names)} names, and the model num_classes={module.num_classes}: "
            "give one for each, or None"
        )


def is_converted(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder that `save` wrote."""
    return (Path(path) / DESCRIPTION).is_file() and (Path(path) / PARAMS).is_dir()


def save(folder: str | os.PathLike[str], model: Model) -> None:
    """Writes a model; the folder appears whole or not at all.

    Args:
        folder: must not exist, or be empty.
        model: with NumPy or JAX arrays.

    Raises:
        UserError: the folder holds something, or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    check_free(folder)
    with whole(folder) as beside:
        text = json.dumps(describe(model), indent=2) + "\n"
        (beside / DESCRIPTION).write_text(text, encoding="utf-8")
        _write(beside / PARAMS, model.params)


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Yields a new folder that becomes `folder` at the end; nothing is left if writing fails.

    Raises:
        UserError: the system refuses to write.
    """
    with storage.writing(folder), contextlib.ExitStack() as stack:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        yield beside
        os.chmod(beside, 0o755)
        os.replace(beside, folder)


def _write(folder: Path, params: Mapping[str, Any]) -> None:
    """Writes parameters with Orbax, without a second copy of them in memory.

    By itself it copies NumPy arrays, in case they change meanwhile, and compresses: weights become
    a twelfth smaller by that, in twice the time.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    in_place = type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    handlers = type_handlers.create_type_handler_registry(
        (np.ndarray, in_place),
        (jax.Array, type_handlers.ArrayHandler()),  # Orbax warns without; there are none
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers, use_compression=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder, ocp.args.PyTreeSave(jax.tree.map(np.asarray, params)))


def check_free(folder: Path) -> None:
    """Raises UserError if something is in the way of a new folder, or it is in no file system."""
    if storage.is_remote(folder):
        raise UserError(f"{folder}: weights are written to a file system; copy them from there")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is already there: choose another --output, or remove it")


def describe(model: Model) -> dict[str, Any]:
    """What `model.json` holds."""
    fields = [f.name for f in dataclasses.fields(model.module) if f.name not in ("parent", "name")]
    return {
        "format": VERSION,
        "name": model.name,
        "module": type(model.module).__name__,
        "hyper_parameters": {name: _plain(getattr(model.module, name)) for name in fields},
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "origin": dict(model.origin),
        "class_names": None if model.class_names is None else list(model.class_names),
        "probabilities": model.probabilities,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _plain(value: Any) -> Any:
    """A hyper-parameter as JSON has it; a dtype by its name."""
    if value is None or isinstance(value, bool | int | float | str | tuple | list):
        return value
    return jnp.dtype(value).name


def read(folder: str | os.PathLike[str]) -> Model:
    """Reads what `save` wrote; the parameters are NumPy arrays of the dtypes that were saved.

    Raises:
        UserError: see `read_description`; or the parameters are damaged, or not those that it
            describes.
    """
    module, preprocessing, described = read_description(folder)
    path = Path(os.path.abspath(folder)) / PARAMS
    try:
        params = _restored(path)
    except Exception as error:  # Orbax's or TensorStore's own, whatever the damage hits
        cause = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} cannot be read and seems damaged ({type(error).__name__}: {cause}): convert "
            "or export the model again"
        ) from error
    _check_fits(path, params, module)
    names = described["class_names"]
    return Model(
        module,
        params,
        preprocessing,
        described["name"],
        described["origin"],
        None if names is None else tuple(names),
        described["probabilities"],
    )


def _restored(path: Path) -> dict[str, Any]:
    """The tree of NumPy arrays that `_write` has written."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            checkpointer.metadata(path).item_metadata.tree,
        )
        return checkpointer.restore(path, restore_args=as_numpy)


def _check_fits(path: Path, params: Mapping[str, Any], module: PlainModule) -> None:
    """Raises UserError unless the parameters have the names and shapes of the module's."""
    found, expected = (
        {path: leaf.shape for path, leaf in by_path(tree).items()}
        for tree in (params, shapes_of(module))
    )
    apart = sorted(x for x in found.keys() | expected.keys() if found.get(x) != expected.get(x))
    if apart:
        raise UserError(
            f"{path} does not hold the parameters that {DESCRIPTION} beside it describes: "
            f"{len(apart)} differ, as {apart[0]}, {found.get(apart[0], 'missing')} there and "
            f"{expected.get(apart[0], 'no parameter')} by the description"
        )


def read_description(
    folder: str | os.PathLike[str],
) -> tuple[PlainModule, registry.Preprocessing, Mapping[str, Any]]:
    """Module, preprocessing and the whole of `model.json`, with defaults; no parameter is read.

    Raises:
        UserError: the folder holds no converted model, one of another version, or a damaged file.
    """
    folder = Path(os.path.abspath(folder))
    if not is_converted(folder):
        raise MissingFileError(f"{folder} holds no converted model: {DESCRIPTION} is missing there")
    described = read_json(folder, DESCRIPTION)
    assert described is not None
    described = {**DEFAULTS, **described}
    if described.get("format") != VERSION:
        raise UserError(
            f"{folder / DESCRIPTION} has format {described.get('format')!r}, expected {VERSION}: "
            "it was written by another version of vit_jax"
        )
    settings = Settings(described, folder / DESCRIPTION)
    for key, allowed in RANGES.items():
        settings.get(key, allowed)
    try:
        module = build(described["module"], described["hyper_parameters"])
    except UserError as error:
        raise UserError(f"hyper_parameters in {folder / DESCRIPTION}: {error}") from error
    try:
        _check_names(described["class_names"], module)
    except UserError as error:
        raise UserError(f"{folder / DESCRIPTION}: {error}") from error
    preprocessing = read_preprocessing(settings.part("preprocessing"), registry.Preprocessing())
    if preprocessing is None:
        raise settings.error("preprocessing", "expected mean and std in it")
    return module, preprocessing, described


def build(class_name: str, hyper_parameters: Mapping[str, Any]) -> PlainModule:
    """The module of a class of this library, from the hyper-parameters of a JSON file.

    Raises:
        UserError: there is no such class, or it has no such hyper-parameters.
    """
    classes = registry.module_classes()
    if class_name not in classes:
        raise UserError(f"module {class_name!r} is unknown; there are {sorted(classes)}")
    cls = classes[class_name]
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(hyper_parameters) - known)
    if unknown:
        raise UserError(f"{class_name} has no hyper-parameters {unknown}")
    module = cls(**{k: _tuple(v) for k, v in hyper_parameters.items()})
    module.check()
    return module


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
