"""Opens a checkpoint, wherever it is, and finds out which model it is of."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vit_jax.convert import class_names
from vit_jax.convert.errors import listed
from vit_jax.convert.hub import download, is_hub_id
from vit_jax.convert.hub_ids import suggestion
from vit_jax.convert.layouts import LAYOUTS, Layout, Source
from vit_jax.convert.layouts.base import DIALECT, RUNTIME, Json, differing
from vit_jax.convert.layouts.npz import unstacked
from vit_jax.convert.layouts.openai_clip import CONFIG as OPEN_CLIP
from vit_jax.convert.layouts.timm_config import architecture_of, unregistered
from vit_jax.convert.mapping import MismatchError
from vit_jax.convert.nearest import mismatch, nearest, unexplained
from vit_jax.convert.readers import read_json, read_tensors
from vit_jax.errors import MissingFileError, UserError
from vit_jax.models import registry
from vit_jax.models.partitioning import PlainModule

# Ends of the names of patch embeddings in Transformers' files.
TRANSFORMERS_PATCH = (
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
)
CONFIG_WANTED = (
    "Put the config.json of the repository that the file is from into its folder; "
    "`theirs.config.save_pretrained(folder)` writes it as well"
)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which model a source is of.

    Attributes:
        layout: how its tensors lie.
        name: the model's registered name, where it has one.
        hyper_parameters: of the layout's class of modules; the others have their defaults.
        preprocessing: how its images are prepared.
        class_names: what its outputs are called, or None.
    """

    layout: Layout
    name: str | None
    hyper_parameters: Mapping[str, Any]
    preprocessing: registry.Preprocessing
    class_names: tuple[str, ...] | None = None


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
    elif not path.exists() and not path.parent.exists() and suggestion(os.fspath(source)):
        raise MissingFileError(f"{source} does not exist{suggestion(os.fspath(source))}")
    elif revision is not None:
        raise UserError(
            f"revision={revision!r} is of the hub, and {path} is a path here: leave it out"
        )
    tensors = unstacked(read_tensors(path, key=key))
    folder = path if path.is_dir() else path.parent
    config, name = _config(folder)
    processor = read_json(folder, "preprocessor_config.json")
    return Source(path, tensors, config, processor, name)


def _config(folder: Path) -> tuple[Json | None, str]:
    """The file that says what the weights are, and its name; another program's does not."""
    config = read_json(folder, "config.json")
    if config is not None and not {"model_type", "architectures", "architecture"} & set(config):
        warnings.warn(
            f"{folder / 'config.json'} is not taken into account: it is neither Transformers' "
            "(model_type) nor timm's (architecture)",
            stacklevel=3,
        )
        config = None
    if config is None and (other := read_json(folder, OPEN_CLIP)) is not None:
        return other, OPEN_CLIP
    return config, "config.json"


def identify(source: Source, model: str | PlainModule | None = None) -> Identity:
    """Finds the layout and the hyper-parameters of a source.

    Args:
        source: from `open_source`.
        model: what it is, where the source does not say: a registered name, or a module of sizes
            that have no name. The number of classes is always the source's, and so are what
            libraries disagree about (`DIALECT`) and what changes no number (`RUNTIME`), where it
            tells them.

    Raises:
        UserError: no layout has such names; the source does not say what it is, and no model was
            given (lists those that it may be); it says that it is something else than `model`.

    Warns:
        UserWarning: a source that has a place for it does not say how images are prepared.
    """
    layout = layout_of(source)
    told, complete = _told(source, layout, model)
    if model is None:
        if not complete:
            raise _nameless(source, layout, told)
        name, hyper_parameters = _name_of(source, layout, told), told
    else:
        name, _, given = stands_for(model)
        free = RUNTIME | DIALECT if complete else RUNTIME
        taken = {key: told[key] for key in ("num_classes", *free) if key in told}
        hyper_parameters = {**given, **taken}
        _check_agrees(source, layout, model, hyper_parameters, told)
    preprocessing = _preprocessing(source, layout, name)
    names = class_names.read(source, hyper_parameters.get("num_classes", 0))
    return Identity(layout, name, hyper_parameters, preprocessing, names)


def stands_for(
    model: str | PlainModule,
) -> tuple[str | None, type[PlainModule], Mapping[str, Any]]:
    """The registered name, the class and the hyper-parameters of a name or a module.

    Raises:
        UserError: there is no such name.
    """
    if isinstance(model, PlainModule):
        return None, type(model), {key: getattr(model, key) for key in model.field_ranges()}
    spec = registry.model_spec(model)
    return model, spec.module, spec.hyper_parameters


def _told(
    source: Source, layout: Layout, model: str | PlainModule | None
) -> tuple[dict[str, Any], bool]:
    """What `layout.read` finds.

    Raises:
        UserError: `model` is of another class than the layout's.
        MismatchError: a tensor that is looked for is not there; says what the source is like.
    """
    given = None
    if model is not None:
        _, cls, hyper_parameters = stands_for(model)
        _check_class(source, layout, model, cls)
        given = in_words(model), hyper_parameters
    try:
        return layout.read(source)
    except MismatchError as error:
        raise mismatch(
            source,
            layout,
            f"{source.path} has names of the layout {layout.name!r} ({layout.family}) and is none "
            f"of its models: {error}{_architecture(source)}",
            given,
        ) from error


def _architecture(source: Source) -> str:
    """What an error says of an architecture that is not registered here; "" for others."""
    name = unregistered(source)
    if name is None:
        return ""
    return f"; its config.json says architecture={name!r}, which is not registered here"


def in_words(model: str | PlainModule) -> str:
    """A model in an error: by its name, if it has one."""
    return "the model as given" if isinstance(model, PlainModule) else repr(model)


def _nameless(source: Source, layout: Layout, told: Mapping[str, Any]) -> UserError:
    """The error of a source that needs a name: those that it may be, or what it is nearest to."""
    cause = (
        f"{source.path} does not say which model it is of{_architecture(source)}: its names are "
        f"those of the layout {layout.name!r}, but heads, epsilons and activations leave no trace "
        "in the tensors. "
    )
    unnamed = (
        "For sizes without a name, give a name and what differs (--model-arg KEY=VALUE, or "
        "model=vit_jax.create_model(...))"
    )
    likely = candidates(layout, told)
    if likely:
        may_be = f"Give the model's name; by the shapes it may be {listed(likely, 12)}. "
        return UserError(cause + may_be + unnamed)
    sizes = ", ".join(f"{key}={value!r}" for key, value in told.items())
    cause += f"Give the model's name; none has the sizes {sizes}. {unnamed}"
    return mismatch(source, layout, cause) if unexplained(source, layout) else UserError(cause)


def _name_of(source: Source, layout: Layout, told: Mapping[str, Any]) -> str | None:
    """The registered name of a source that tells everything, if it has one without a doubt."""
    likely = candidates(layout, told)
    architecture = architecture_of(source.config or {})
    if architecture in likely:
        return architecture
    return likely[0] if len(likely) == 1 else None


def _preprocessing(source: Source, layout: Layout, name: str | None) -> registry.Preprocessing:
    """How images are prepared: as the source says, or its name, or as usual for its layout."""
    said = layout.preprocessing(source)
    if said is not None:
        return said
    usual = layout.usual if name is None else registry.preprocessing(name)
    if source.config is not None:
        warnings.warn(
            f"{source.path} does not say how images are prepared; taken is what is usual for its "
            f"family: {usual}. Beside the weights, a preprocessor_config.json (Transformers) or "
            "the pretrained_cfg of a config.json (timm) would say it",
            stacklevel=3,
        )
    return usual


@contextlib.contextmanager
def explained(source: Source, identity: Identity) -> Iterator[None]:
    """Adds to the error of weights that do not fit their model why it was taken for that.

    That is the configuration beside them, or the name that was given.
    """
    try:
        yield
    except UserError as error:
        matching = error.matching if isinstance(error, MismatchError) else None
        text = "\n  ".join([str(error), *_reasons(source, identity, matching is not None)])
        raise UserError(text) if matching is None else MismatchError(text, matching) from error


def _reasons(source: Source, identity: Identity, mismatched: bool) -> Iterator[str]:
    layout, name = identity.layout, identity.name
    if source.config is not None and unregistered(source) is None:
        said = ", ".join(f"{key}={value!r}" for key, value in identity.hyper_parameters.items())
        yield f"the model is as {source.folder / source.config_name} says: {said}"
        left_out = ", ".join(f"{key}={value!r}" for key, value in layout.assumed(source).items())
        if left_out:
            yield f"which leaves out what then has its default: {left_out}"
    elif mismatched and layout in LAYOUTS:  # and not a mapping file's
        yield f"{source.path} has names of the layout {layout.name!r} ({layout.family})"
        told, _ = layout.read(source)
        likely = [x for x in candidates(layout, told) or nearest(source, layout) if x != name]
        yield f"by its tensors it may be {listed(likely)}" if likely else "no other name is nearer"


def layout_of(source: Source) -> Layout:
    """The layout of a source.

    Raises:
        UserError: none has such names.
    """
    for layout in LAYOUTS:
        if layout.claims(source):
            return layout
    if source.config is None and any(name.endswith(TRANSFORMERS_PATCH) for name in source.tensors):
        raise UserError(
            f"the names in {source.path} are those of Transformers, which says in a config.json "
            f"what the model is, and there is none beside it. {CONFIG_WANTED}"
        )
    config = source.config or {}
    told = {key: config.get(key) for key in ("model_type", "architectures", "architecture")}
    raise UserError(
        f"{source.path} is in no layout that is known here"
        + (f"; its {source.config_name} says {told}" if config else "")
        + f". It holds {listed(source.tensors)}. Known are "
        f"{sorted({f'{layout.name} ({layout.family})' for layout in LAYOUTS})}; for a checkpoint "
        "of your own, give a mapping table (--mapping)"
    )


def candidates(layout: Layout, told: Mapping[str, Any]) -> list[str]:
    """Registered names whose hyper-parameters are those that a source tells."""
    found = []
    for name in registry.list_models():
        spec = registry.model_spec(name)
        if spec.module is layout.module and not _differing(layout, spec.hyper_parameters, told):
            found.append(name)
    return found


def _differing(
    layout: Layout, hyper_parameters: Mapping[str, Any], told: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What the source says otherwise than a name does, the number of classes apart."""
    choices = {**hyper_parameters, "num_classes": told["num_classes"]}
    return differing(layout.module(**{**choices, **told}), layout.module(**choices), told)


def _check_class(
    source: Source, layout: Layout, model: str | PlainModule, cls: type[PlainModule]
) -> None:
    if cls is not layout.module:
        raise UserError(
            f"{in_words(model)} is a {cls.__name__}, and the layout {layout.name!r} of "
            f"{source.path} is of a {layout.module.__name__}"
        )


def _check_agrees(
    source: Source,
    layout: Layout,
    model: str | PlainModule,
    hyper_parameters: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """Raises `MismatchError` where the source tells something else than what `model` has."""
    apart = _differing(layout, hyper_parameters, told)
    if apart:
        text = ", ".join(f"{k}={a!r} (the model has {b!r})" for k, (a, b) in apart.items())
        likely = candidates(layout, told)
        hint = f"; it may be {listed(likely)}" if likely else ""
        given = {**hyper_parameters, "num_classes": told["num_classes"]}
        cause = f"{source.path} is not {in_words(model)}: it has {text}{hint}"
        cause += _architecture(source)
        raise mismatch(source, layout, cause, (in_words(model), given))
