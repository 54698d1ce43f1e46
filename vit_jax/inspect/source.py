"""What is inspected: the configuration of a recipe, a run, a converted model or a name."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vit_jax import models, naming
from vit_jax.convert import folder
from vit_jax.errors import MissingFileError, UserError
from vit_jax.models import registry
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.training import overrides as overrides_lib
from vit_jax.training import run_folder
from vit_jax.training.config import OPEN_SECTIONS, base_config, load_config, open_and_lock

DEFAULT_CLASSES = 1000  # of a head for a model that has none, as in fine-tuning on ImageNet-1k
Source = str | os.PathLike[str]


def configuration(source: Source, overrides: Iterable[str] = ()) -> ConfigDict:
    """Returns the configuration of a training run of what is inspected.

    Args:
        source: a recipe (.py), the folder of a run, a folder that `vit-jax convert` wrote, or a
            name of `list_models()`.
        overrides: such as `optim.name=lion`, see `training.overrides`.

    Raises:
        MissingFileError: there is no such file or folder.
        UserError: no such model (names the nearest), or see `load_config` and `read_config`.
    """
    text = os.fspath(source)
    if text in models.list_models():
        return _overridden(_of_name(text), overrides)
    if text.endswith(".py") or Path(text).is_file():
        return load_config(text, overrides)
    if run_folder.is_run(text):
        return _overridden(run_folder.read_config(text), overrides)
    if folder.is_converted(text):
        return _overridden(_of_folder(text), overrides)
    if Path(text).is_dir():
        raise MissingFileError(
            f"{text} is neither the folder of a run ({run_folder.CONFIG} is missing there) nor "
            f"what vit-jax convert writes ({folder.DESCRIPTION} is)"
        )
    raise _unknown(text)


def _unknown(text: str) -> UserError:
    """The error for what is neither a name nor there."""
    near = naming.nearest(text, models.list_models())
    if near:
        return UserError(f"{naming.unknown('model', text, near)} vit-jax models lists all")
    return MissingFileError(
        f"{text!r} is no model (vit-jax models lists all), and there is no recipe, run or "
        "converted model of this name"
    )


def _overridden(config: ConfigDict, overrides: Iterable[str]) -> ConfigDict:
    for override in overrides:
        overrides_lib.apply(config, override, OPEN_SECTIONS)
    return config


def _of_name(name: str, fields: Mapping[str, Any] | None = None) -> ConfigDict:
    """The defaults of a run with a model, in one step; with a head where it has none."""
    spec = registry.model_spec(name)
    config = base_config()
    config.model.name = name
    for key, value in (fields or {}).items():
        config.model[key] = value
    if issubclass(spec.module, MaskedAutoencoder):
        config.objective = ConfigDict({"name": "mae"})
    elif config.model.num_classes is None:
        own = models.create_model(name).num_classes
        config.model.num_classes = own or DEFAULT_CLASSES
    return open_and_lock(config)


def _of_folder(path: str) -> ConfigDict:
    """Of a converted model: its name and what differs from it, or any name of its family."""
    module, _, described = folder.read_description(path)
    names = registry.names_of(module)
    name = described["name"] if described["name"] in names else names[0]
    usual = models.create_model(name)
    values = {key: _plain(getattr(module, key)) for key in module.field_ranges()}
    fields = {key: x for key, x in values.items() if x != _plain(getattr(usual, key))}
    if not module.num_classes:
        fields.pop("num_classes", None)
    return _of_name(name, fields)


def _plain(value: Any) -> Any:
    """A dtype by its name; all else is plain."""
    return value if isinstance(value, str | int | float | tuple | None) else np.dtype(value).name
