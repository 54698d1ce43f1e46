"""Starts a run from pretrained weights: `config.init_from`.

They are those of a converted folder, of a file, of the hub, or of another run.

Everything that is not a plain copy has to be announced in `config.init_changes`: which leaves may
be resampled, drawn anew or left out, and which hyper-parameters may differ from those that the
weights were trained with. What became of each leaf is printed, and written to `init_from.json`.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax import storage
from vit_jax.convert import pretrained
from vit_jax.convert.adapt import Adaptation, adapt
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts.base import differing
from vit_jax.errors import UserError
from vit_jax.models import MaskedAutoencoder, PlainModule, VisionTransformer, registry
from vit_jax.models.layers.position import STORED
from vit_jax.training import run_folder
from vit_jax.training.experiment import Experiment
from vit_jax.training.state import TrainState

REPORT = "init_from.json"
# Hyper-parameters of what follows the blocks.
AFTER_BLOCKS = ("num_classes", "global_pool", "fc_norm", "pool_include_prefix", "head_bias")
AFTER_BLOCKS += ("dist_token", "representation_size")
# What the patterns of `init_changes` speak about: sizes of leaves, not the network as such.
SIZES = frozenset(("img_size", "patch_size", "num_classes", "parent", "name"))


def initial_state(
    experiment: Experiment, workdir: str | os.PathLike[str] | None, say: Callable[[str], None]
) -> TrainState:
    """Returns the first state of a run, its parameters from `config.init_from` where that is given.

    Args:
      experiment: of the run.
      workdir: of the run; gets `init_from.json`. None: no report is written.
      say: is given the sentences a user should read.

    Raises:
      UserError: the weights cannot be read, or do not fit the model and `config.init_changes`.
    """
    state = experiment.state_factory.create()
    config = experiment.config
    if config.init_from is None:
        return state
    objective = experiment.objective
    drawn = objective.module_params(objective.all_params(state.params, state.extra))
    model = _load(config, experiment.module)
    params, adaptation = _adapted(config, experiment.module, model, drawn)
    say(f"initial parameters from {config.init_from}\n{adaptation}")
    if workdir is not None and jax.process_index() == 0:
        _write(storage.path(workdir) / REPORT, config.init_from, adaptation)
    placed = jax.tree.map(_place, params, drawn)
    params, extra = objective.with_module_params(state.params, state.extra, placed)
    shardings = experiment.state_factory.shardings  # kept, but for what an objective cuts
    params, extra = jax.device_put((params, extra), (shardings.params, shardings.extra))
    ema = None if state.ema is None else jax.tree.map(lambda leaf: leaf.copy(), params)
    return state.replace(params=params, ema=ema, extra=extra)


def _load(config: ConfigDict, module: PlainModule) -> Model:
    """The model of `config.init_from`, its blocks scanned or not as the run's are."""
    source = config.init_from
    if run_folder.holds_run(source):
        model = _of_run(source, module)
    elif pretrained.needs_name(source):
        model = _load_nameless(config, module)
    else:
        model, _ = pretrained.load(source, param_dtype=module.param_dtype, scan=module.scan)
    model = _encoder_for(model, module)
    _check_same_network(config, model.module, module)
    return model


def _of_run(workdir: str, module: PlainModule) -> Model:
    """The model of another run's last checkpoint, its running average where it keeps one."""
    from vit_jax.training.trained import trained_model  # which imports this module

    model = trained_model(workdir, report=lambda text: None)
    module, params = pretrained.restack(model.module, model.params, module.scan)
    return dataclasses.replace(model, module=module, params=params)


def _encoder_for(model: Model, module: PlainModule) -> Model:
    """The encoder of a masked autoencoder, where the run's model is a plain Vision Transformer.

    It pools and classifies as the run's does, since in pre-training it does neither. The decoder's
    parameters stay, to be left out by name. An encoder that was stored by itself is known by its
    fixed positions.
    """
    old = model.module
    if type(module) is not VisionTransformer:
        return model
    if isinstance(old, MaskedAutoencoder):
        old = old.encoder_alone()
    elif type(old) is not VisionTransformer or old.num_classes or not old.fixed_params:
        return model
    head = {name: getattr(module, name) for name in AFTER_BLOCKS}
    return dataclasses.replace(model, module=old.clone(**head))


def _load_nameless(config: ConfigDict, module: PlainModule) -> Model:
    """A source that does not say what it is: it is the run's model, in its sizes or its name's."""
    options = dict(param_dtype=module.param_dtype, scan=module.scan)
    spec = registry.model_spec(config.model.name)
    usual = spec.module(**spec.hyper_parameters)
    sizes = {k: getattr(usual, k) for k in ("img_size", "patch_size") if hasattr(usual, k)}
    try:
        return pretrained.load(config.init_from, module.clone(**sizes), **options)[0]
    except UserError as of_name:
        try:
            return pretrained.load(config.init_from, module, **options)[0]
        except UserError:
            raise of_name from None


def _check_same_network(config: ConfigDict, old: PlainModule, new: PlainModule) -> None:
    """Raises UserError where hyper-parameters differ that `init_changes` does not name."""
    if type(old) is not type(new):
        raise UserError(
            f"{config.init_from} holds a {type(old).__name__}, config.model a {type(new).__name__}"
        )
    announced = config.init_changes.hyper_parameters
    fields = {f.name for f in dataclasses.fields(new)} - SIZES
    found = differing(old, new, sorted(fields))
    if _resamples(old, new) and old.pos_resample != new.pos_resample:
        found["pos_resample"] = (old.pos_resample, new.pos_resample)
    idle = [name for name in announced if name not in found]
    if idle:
        raise UserError(
            f"config.init_changes.hyper_parameters names {idle}, in which {config.init_from} and "
            "config.model do not differ; take it out"
        )
    found = {name: pair for name, pair in found.items() if name not in announced}
    if found:
        text = "; ".join(f"{k} is {a!r} there, {b!r} here" for k, (a, b) in found.items())
        settings = " ".join(f"--config.model.{k}={a}" for k, (a, _) in found.items())
        raise UserError(
            f"the weights of {config.init_from} are of another network than config.model: {text}. "
            f"Take theirs ({settings}), or announce that they differ: "
            f"config.init_changes.hyper_parameters={tuple(found)}"
        )


def _resamples(old: PlainModule, new: PlainModule) -> bool:
    """Whether the way of resampling positions decides what the new module computes."""
    if not (hasattr(old, "pos_resample") and old.pos_embed in STORED):
        return False
    return old.grid() != new.grid() or new.dynamic_img_size


def _adapted(
    config: ConfigDict, module: PlainModule, model: Model, drawn: Any
) -> tuple[dict[str, Any], Adaptation]:
    changes = config.init_changes
    fresh = traverse_util.flatten_dict(drawn, sep="/")
    return adapt(
        model.params,
        model.module,
        module,
        resampled=changes.resampled,
        drawn=changes.drawn,
        left_out=changes.left_out,
        draw=lambda paths: {path: fresh[path] for path in paths},
    )


def _place(value: Any, like: jax.Array) -> jax.Array:
    """`value` on the devices, in the dtype and the sharding of `like`."""
    if isinstance(value, jax.Array) and value is like:
        return like
    value = np.asarray(value).astype(like.dtype)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: value[index])


def _write(path: Path, source: str, adaptation: Adaptation) -> None:
    report: Mapping[str, Any] = {"source": source, **dataclasses.asdict(adaptation)}
    storage.make_folder(path.parent)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
