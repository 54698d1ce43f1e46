"""Opens a checkpoint, wherever it is, and finds out which model it is of."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.convert.errors import listed
from vit_jax.convert.hub import download, is_hub_id
from vit_jax.convert.layouts import LAYOUTS, Layout, Source
from vit_jax.convert.layouts.base import differing
from vit_jax.convert.layouts.npz import unstacked
from vit_jax.convert.readers import read_json, read_tensors
from vit_jax.errors import UserError
from vit_jax.models import registry


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which model a source is of.

    Attributes:
        layout: how its tensors lie.
        name: the model's registered name, where it has one.
        hyper_parameters: of the layout's class of modules; the others have their defaults.
        preprocessing: how its images are prepared.
    """

    layout: Layout
    name: str | None
    hyper_parameters: Mapping[str, Any]
    preprocessing: registry.Preprocessing


def open_source(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    key: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> Source:
    """Opens a local file or folder, or a repository of the hub; no tensor is read yet.

    Args:
        source: a path, or a hub id (`hf-hub:owner/name`, `timm/name`).
        revision: branch, tag or commit of the hub.
        key: which part of a nested file is meant, as "teacher"; see `readers.read_tensors`.
        cache_dir: of the hub's client.
        offline: takes everything from that cache.

    Raises:
        UserError: there is no such source, or it cannot be read.
    """
    path = Path(os.fspath(source)).expanduser()
    if not path.exists() and is_hub_id(os.fspath(source)):
        path = download(os.fspath(source), revision=revision, cache_dir=cache_dir, offline=offline)
    tensors = unstacked(read_tensors(path, key=key))
    folder = path if path.is_dir() else path.parent
    return Source(
        path=path,
        tensors=tensors,
        config=read_json(folder, "config.json") or read_json(folder, "open_clip_config.json"),
        processor=read_json(folder, "preprocessor_config.json"),
    )


def identify(source: Source, model: str | None = None) -> Identity:
    """Finds the layout and the hyper-parameters of a source.

    Args:
        source: from `open_source`.
        model: a registered name, where the source does not say what it is. The number of classes
            is always the source's.

    Raises:
        UserError: no layout has such names; the source does not say what it is, and no model was
            given (lists those that it may be); it says that it is something else than `model`.
    """
    layout = layout_of(source)
    told, complete = layout.read(source)
    if model is None and not complete:
        raise UserError(
            f"{source.path} does not say which model it is of: its names are those of the layout "
            f"{layout.name!r}, but heads, epsilons and activations leave no trace in the tensors. "
            f"Give the model's name; by the shapes it may be {listed(candidates(layout, told), 12)}"
        )
    if model is None:
        name, hyper_parameters, prep = None, told, registry.Preprocessing()
    else:
        spec = registry.model_spec(model)
        _check_agrees(source, layout, model, spec, told)
        name, prep = model, spec.preprocessing
        hyper_parameters = {**spec.hyper_parameters, "num_classes": told["num_classes"]}
    return Identity(layout, name, hyper_parameters, layout.preprocessing(source) or prep)


def layout_of(source: Source) -> Layout:
    """The layout of a source.

    Raises:
        UserError: none has such names.
    """
    for layout in LAYOUTS:
        if layout.claims(source):
            return layout
    config = source.config or {}
    told = {key: config[key] for key in ("model_type", "architectures") if key in config}
    raise UserError(
        f"{source.path} is in no layout that is known here"
        + (f"; its config.json says {told}" if told else "")
        + f". It holds {listed(source.tensors)}. Known are "
        f"{sorted({f'{layout.name} ({layout.family})' for layout in LAYOUTS})}; for a checkpoint "
        "of your own, give a mapping table (--mapping)"
    )


def candidates(layout: Layout, told: Mapping[str, Any]) -> list[str]:
    """Registered names whose hyper-parameters are those that a source tells."""
    found = []
    for name in registry.list_models():
        spec = registry.model_spec(name)
        if spec.module is layout.module and not _differing(layout, spec, told):
            found.append(name)
    return found


def _differing(
    layout: Layout, spec: registry.ModelSpec, told: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What the source says otherwise than a name does, the number of classes apart."""
    choices = {**spec.hyper_parameters, "num_classes": told["num_classes"]}
    return differing(layout.module(**{**choices, **told}), layout.module(**choices), told)


def _check_agrees(
    source: Source,
    layout: Layout,
    model: str,
    spec: registry.ModelSpec,
    told: Mapping[str, Any],
) -> None:
    if spec.module is not layout.module:
        raise UserError(
            f"model {model!r} is a {spec.module.__name__}, and the layout {layout.name!r} of "
            f"{source.path} is of a {layout.module.__name__}"
        )
    differing = _differing(layout, spec, told)
    if differing:
        text = ", ".join(f"{k}={a!r} (the model has {b!r})" for k, (a, b) in differing.items())
        likely = candidates(layout, told)
        hint = f"it may be {listed(likely)}" if likely else "leave the model's name out"
        raise UserError(f"{source.path} is not a {model!r}: it has {text}; {hint}")
