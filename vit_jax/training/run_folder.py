"""The folder of a run: its configuration, and which run it belongs to.

config.json        the resolved configuration
versions.json      of the libraries
metrics.jsonl      one JSON object a line
tensorboard/       the same for TensorBoard
checkpoints/       one folder a step
"""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vit_jax import storage
from vit_jax.errors import MissingFileError, UserError
from vit_jax.training.checkpoint import saved_steps
from vit_jax.training.config import from_json, to_json
from vit_jax.training.overrides import flat_keys

CONFIG = "config.json"
LIBRARIES = (
    "vit_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "ml-collections",
    "numpy",
)

# What may differ when a run is resumed: where and how it is computed and how often it reports. The
# rest decides what it computes. (Another mesh or accumulation changes rounding and, with the
# latter, which units are dropped, but not what is minimised.)
MAY_CHANGE = (
    "accumulate_steps",
    "checkpoint",
    "compilation_cache",
    "data.cache",
    "data.data_dir",
    "data.eval_batch_size",
    "data.on_error",  # a run that a broken file stopped goes on past it
    "data.workers",
    "distributed",
    "eval_every_steps",
    "log_every_steps",
    "mesh",
    "model.attn_backend",
    "model.remat",
    "profile",
    "sharding_rules",
    "tpu_topology",
)


def checkpoints_dir(workdir: str | os.PathLike[str]) -> Path:
    """Returns the folder of the checkpoints."""
    return storage.path(workdir) / "checkpoints"


def holds_run(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the folder of a run that has a checkpoint, or the URL of a run."""
    return is_run(path) and (storage.is_remote(path) or bool(saved_steps(checkpoints_dir(path))))


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the folder of a run; it may be text that is no path at all.

    Raises:
      MissingFileError: it is the URL of an object store, where only runs are read, and there is
        none.
      UserError: the store does not answer.
    """
    if not storage.is_path(path):
        return False
    storage.check(path)
    found = (storage.path(path) / CONFIG).is_file()
    if storage.is_remote(path) and not found:
        raise MissingFileError(
            f"no run in {os.fspath(path)}: {CONFIG} is missing there; weights that are not a run's "
            "are read from a file system, copy them"
        )
    return found


def claim(workdir: str | os.PathLike[str], config: ConfigDict) -> None:
    """Makes `workdir` the folder of this run, or checks that it is already.

    Args:
      workdir: made where it is missing.
      config: resolved; what `MAY_CHANGE` names may differ from an earlier start. Before the first
        checkpoint everything may.

    Raises:
      UserError: the folder holds a run of another configuration (says which keys differ), or
        checkpoints and no readable config.json; or it is no folder that can be written.
    """
    workdir = storage.path(workdir)
    storage.check(workdir)
    steps = saved_steps(checkpoints_dir(workdir))
    if steps and not (workdir / CONFIG).exists():
        raise MissingFileError(
            f"{workdir} has checkpoints (of steps {', '.join(map(str, steps))}) but no {CONFIG}, "
            "which says what they are of; put it back, or use another --workdir"
        )
    if steps:
        different = differences(read_config(workdir), config)
        if different:
            raise UserError(
                f"{workdir} holds a run of another configuration:\n  "
                + "\n  ".join(different)
                + "\nuse another --workdir, or the configuration of that run"
            )
    if jax.process_index() == 0:
        _write(workdir, to_json(config))


def _write(workdir: Path, config: str) -> None:
    """Makes the folder and writes its files."""
    try:
        storage.make_folder(workdir)
        storage.replace_text(workdir / CONFIG, config)
        storage.replace_text(workdir / "versions.json", json.dumps(versions(), indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"workdir {str(workdir)!r} is no folder that can be written ({error}); "
            "use another --workdir"
        ) from error


def read_config(workdir: str | os.PathLike[str]) -> ConfigDict:
    """Returns the resolved configuration of the run in `workdir`.

    Raises:
      MissingFileError: there is no run.
      UserError: its config.json cannot be read.
    """
    storage.check(workdir)
    path = storage.path(workdir) / CONFIG
    if not path.is_file():
        raise MissingFileError(f"no run in {workdir}: {CONFIG} is missing there")
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of bytes that are no text too
        raise UserError(
            f"{path} cannot be read: {error}; put back what the run wrote there, or use another "
            "--workdir"
        ) from error


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns a line for each key whose values differ and that may not change."""
    new = from_json(to_json(new))
    lines = []
    for key in sorted({*flat_keys(old), *flat_keys(new)}):
        if any(key == name or key.startswith(name + ".") for name in MAY_CHANGE):
            continue
        before, now = (_value(config, key) for config in (old, new))
        if before != now:
            lines.append(f"{key}: {before} in the folder, {now} now")
    return lines


def _value(config: ConfigDict, key: str) -> str:
    for name in key.split("."):
        if name not in config:
            return "not set"
        config = config[name]
    return repr(config)


def versions() -> dict[str, str]:
    """Returns the versions of Python, of the main libraries and the kind of device."""
    found = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
