"""Loads pretrained weights: from a file, a folder or the hub to a module and its variables."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax import naming, ranges
from vit_jax.convert import folder, mapping, own, params
from vit_jax.convert.adapt import Adaptation, adapt
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts import Source
from vit_jax.convert.layouts.base import DIALECT, differing
from vit_jax.convert.mapping import check_range
from vit_jax.convert.rules import Table
from vit_jax.convert.source import (
    Identity,
    explained,
    identify,
    in_words,
    layout_of,
    open_source,
    stands_for,
)
from vit_jax.errors import UserError
from vit_jax.models.layers.encoder import stack_blocks, unstack_blocks
from vit_jax.models.layers.position import STORED
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.registry import Preprocessing
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import pair

# To who loads a model with hyper-parameters that ask for other parameters than it has.
ADVICE = (
    "Loading changes parameters for num_classes, img_size, patch_size or window_size only: "
    "leave the hyper-parameter that asks for this as the source has it. A training run may start "
    "from such a source all the same: config.init_from, and config.init_changes.{what}={patterns}"
)
PARAM_DTYPE = ranges.either(ranges.FLOAT_DTYPE, ranges.one_of(("source", None)))
_log = logging.getLogger(__name__)


def from_pretrained(
    source: str | os.PathLike[str], model: str | PlainModule | None = None, **options: Any
) -> tuple[PlainModule, dict[str, Any]]:
    """Loads a pretrained model.

        module, variables = vit_jax.from_pretrained("hf-hub:google/vit-base-patch16-224")
        logits = module.apply(variables, images)

    Args:
        source: see `load`.
        model: see `load`.
        **options: see `load`: where to find the source (`revision`, `key`, `cache_dir`,
            `offline`), its `mapping`, and hyper-parameters that are to differ (`num_classes=10`,
            ...).

    Returns:
        The module, and `{"params": ...}` as JAX arrays.

    Raises:
        UserError: see `load`.
    """
    loaded, report = load(source, model, **options)
    if report.resampled or report.drawn or report.left_out:
        _log.info("%s", report)
    check_not_rounded(loaded.params)
    return loaded.module, {"params": _on_device(dict(loaded.params))}


def check_not_rounded(tree: Mapping[str, Any]) -> None:
    """Raises UserError for parameters of float64 while JAX does not have it."""
    wide = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(tree))
    if wide and not jax.config.jax_enable_x64:
        raise UserError(
            "the parameters are float64, which JAX would round: set "
            "jax.config.update('jax_enable_x64', True), or choose param_dtype='float32'"
        )


def _on_device(tree: dict[str, Any]) -> dict[str, Any]:
    """JAX arrays in place of NumPy's, one by one: there is no second copy of the model."""
    for name, value in tree.items():
        tree[name] = _on_device(value) if isinstance(value, dict) else jax.device_put(value)
    return tree


def load(
    source: str | os.PathLike[str],
    model: str | PlainModule | None = None,
    *,
    mapping: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    key: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    **overrides: Any,
) -> tuple[Model, Adaptation]:
    """Loads a model with NumPy parameters.

    Args:
        source: a file or folder (safetensors, `.pth`, TorchScript, `.npz`, or what `vit-jax
            convert` wrote), or a hub id: `hf-hub:owner/name`, `timm/name`.
        model: what it is, where the source does not say it: a name of `list_models()`, or for
            sizes without a name a module that `create_model` built.
        mapping: a file that says how a checkpoint of your own is stored, see `convert.own`.
        revision: branch, tag or commit of the hub.
        key: which part of a nested file is meant, as "teacher".
        cache_dir: of the hub's client.
        offline: takes everything from that cache.
        **overrides: hyper-parameters of the module that are to differ: `num_classes` (the head is
            drawn anew, 0 leaves it out), `img_size` and `patch_size` (positions and patch embedding
            are resampled), `scan`, `dtype`, drop rates, ... `param_dtype="source"` keeps the
            dtypes of the file; without it, parameters are float32.

    Returns:
        The model, and what became of each leaf on the way to the module asked for.

    Raises:
        UserError: see `open_source`, `identify`, `mapping.fill` and `adapt`; or an override that
            the module does not have.
    """
    dtype, scan = overrides.pop("param_dtype", None), overrides.get("scan", False)
    ranges.check({"param_dtype": dtype}, {"param_dtype": PARAM_DTYPE})
    if folder.is_converted(source):
        refuse_idle(source, mapping=mapping, revision=revision, key=key)
        base = _cast(agreeing(folder.read(source), model, source), dtype)
    else:
        where = dict(revision=revision, key=key, cache_dir=cache_dir, offline=offline)
        told = None if mapping is None else own.identity(mapping, model)
        opened = open_source(source, **where)
        identity = told or identify(opened, model)
        base = read(opened, identity, dtype, scan=scan)
    return override(base, **overrides)


def refuse_idle(source: str | os.PathLike[str], **options: Any) -> None:
    """Raises UserError for an option of how to read others' weights, where a source is ours."""
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"{name}={value!r} says how to read weights of others, and {source} is a run or is "
                "converted already: leave it out"
            )


def agreeing(
    found: Model, model: str | PlainModule | None, source: str | os.PathLike[str]
) -> Model:
    """`found`, a model of this library's folders, with the name `model`, if that is what it is.

    Raises:
        UserError: it is another model.
    """
    if model is None:
        return found
    name, cls, given = stands_for(model)
    asked_for, held = in_words(model), type(found.module).__name__
    if cls is not type(found.module):
        raise UserError(f"{source} holds a {held}, and {asked_for} is a {cls.__name__}")
    asked = cls(**{**given, "num_classes": found.module.num_classes})
    apart = differing(found.module, asked, set(asked.field_ranges()) - DIALECT)
    if apart:
        text = ", ".join(f"{k}={a!r} (asked for is {b!r})" for k, (a, b) in apart.items())
        raise UserError(
            f"{source} holds {found.name or 'another model'!r}, not {asked_for}: {text}"
        )
    return dataclasses.replace(found, name=name or found.name)


def pretrained_preprocessing(
    source: str | os.PathLike[str],
    model: str | PlainModule | None = None,
    *,
    mapping: str | os.PathLike[str] | None = None,
    **where: Any,
) -> Preprocessing:
    """How images are prepared for a pretrained model; no weights are read.

    Args:
        source: see `load`.
        model: see `load`.
        mapping: see `load`.
        **where: see `load`: `revision`, `key`, `cache_dir`, `offline`.

    Raises:
        UserError: see `load`.
    """
    if folder.is_converted(source):
        refuse_idle(source, mapping=mapping, revision=where.get("revision"), key=where.get("key"))
        return folder.read_description(source)[1]
    if mapping is not None:
        return own.identity(mapping, model).preprocessing
    return identify(open_source(source, **where), model).preprocessing


def needs_name(source: str | os.PathLike[str]) -> bool:
    """Whether a source does not say by itself which model it is of."""
    if folder.is_converted(source):
        return False
    opened = open_source(source)
    return not layout_of(opened).read(opened)[1]


def read(source: Source, identity: Identity, dtype: Any = None, *, scan: bool = False) -> Model:
    """The model that a source holds, as it is.

    Args:
        source: from `source.open_source`.
        identity: from `source.identify`.
        dtype: of the parameters; "source" keeps those of the file, None is float32.
        scan: the module scans its blocks.

    Raises:
        MismatchError: the tensors are not those of the model; says what else it may be.
        UserError: what the source says contradicts itself; or it has float64, see `load`.
    """
    scans = {"scan": scan} if params.can_scan(identity.layout.module) else {}
    module = identity.layout.module(**{**identity.hyper_parameters, **scans})
    with explained(source, identity):
        module.check()
        table = identity.layout.table(module, source)
        tree = _allocate(module, table, source, dtype or jnp.float32)
    mapping.fill(source.tensors, table, params.by_path(tree))
    module = module.clone(param_dtype=_widest(leaf.dtype for leaf in jax.tree.leaves(tree)))
    origin = {"source": os.fspath(source.path), "layout": identity.layout.name}
    return Model(module, tree, identity.preprocessing, identity.name, origin, identity.class_names)


def _allocate(module: PlainModule, table: Table, source: Source, dtype: Any) -> dict[str, Any]:
    """Room for the parameters, in `dtype` or, for "source", in the dtypes of the file."""
    shapes = params.shapes_of(module)
    expected = {path: leaf.shape for path, leaf in params.by_path(shapes).items()}
    mapping.check_tensors(source.tensors, table, expected)
    dtypes: dict[str, Any] = {}
    for rule in table.rules:
        found = _widest(source.tensors[name].dtype for name in rule.sources)
        for path in rule.targets:
            path = params.leaf_path(path, module)
            dtypes[path] = jnp.promote_types(dtypes.get(path, found), found)
    if dtype != "source":
        if np.float64 in dtypes.values() and jnp.dtype(dtype) != np.float64:
            raise UserError(
                f"{source.path} holds float64, which {jnp.dtype(dtype)} would round: give "
                "param_dtype='source' to keep it"
            )
        dtypes = dict.fromkeys(dtypes, jnp.dtype(dtype))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    leaves = {path: params.empty(leaf.shape, dtypes[path]) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _widest(dtypes: Iterable[Any]) -> Any:
    """The dtype that holds all; `jnp.result_type` would make float32 of float64."""
    return functools.reduce(jnp.promote_types, dtypes)


def _cast(model: Model, dtype: Any) -> Model:
    """The model in another dtype, if one is asked for."""
    if dtype in (None, "source"):
        return model
    for path, leaf in traverse_util.flatten_dict(model.params, sep="/").items():
        check_range(path, leaf, jnp.dtype(dtype))
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), model.params)
    return dataclasses.replace(model, params=tree, module=model.module.clone(param_dtype=dtype))


def override(model: Model, **overrides: Any) -> tuple[Model, Adaptation]:
    """The model with other hyper-parameters, its parameters adapted; see `load`.

    Raises:
        UserError: the module has no such hyper-parameter, or it asks for parameters that the model
            does not have.
    """
    cls = type(model.module)
    fields = [f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "name")]
    naming.check_known(f"hyper-parameter of {cls.__name__}", overrides, fields)
    new = model.module.clone(**overrides)
    new.check()
    if new == model.module:
        taken = traverse_util.flatten_dict(model.params, sep="/")
        return model, Adaptation(taken=tuple(sorted(taken)))
    wide = new.param_dtype == np.float64 or jax.config.jax_enable_x64
    with jax.enable_x64(wide):  # else what is drawn or resampled would be rounded
        old, tree = restack(model.module, model.params, new.scan)
        tree, report = adapt(tree, old, new, **_announced(old, new), advice=ADVICE)
    other: dict[str, Any] = {}
    if new.num_classes != model.module.num_classes:  # another head, of which nothing is known
        other = dict(class_names=None, probabilities="softmax")
    return dataclasses.replace(model, module=new, params=tree, **other), report


def restack(
    module: PlainModule, tree: Mapping[str, Any], scan: bool
) -> tuple[PlainModule, Mapping[str, Any]]:
    """Module and parameters with blocks scanned, or unrolled."""
    if module.scan == scan:
        return module, tree
    return module.clone(scan=scan), (stack_blocks if scan else unstack_blocks)(tree)


def _announced(old: PlainModule, new: PlainModule) -> dict[str, Any]:
    """What overrides say by themselves."""
    said: dict[str, Any] = {}
    if old.num_classes != new.num_classes:
        two = getattr(old, "dist_token", False)
        heads = ("head/*", "head_dist/*") if two else ("head/*",)
        said["drawn" if new.num_classes else "left_out"] = heads
    if not hasattr(old, "patch_size"):  # convolutions fit images of any size
        return said
    resampled = []
    if isinstance(old, SwinTransformer):
        if old.version == 1 and old.windows() != new.windows():
            resampled.append("stages_*/rel_pos/table")
    elif old.grid() != new.grid() and old.pos_embed in STORED:
        resampled.append("pos_embed/*")
        if isinstance(old, MaskedAutoencoder):
            resampled.append("decoder/pos_embed/*")
    if pair(old.patch_size) != pair(new.patch_size):
        resampled.append("patch_embed/kernel")
    return {**said, "resampled": resampled}
