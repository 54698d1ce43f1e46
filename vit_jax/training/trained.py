"""The model that a run has trained, apart from the run; and any other model there is."""

import dataclasses
import os
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.convert import folder, pretrained
from vit_jax.convert.errors import NoCheckpointError
from vit_jax.data.preprocessing import described
from vit_jax.errors import MissingFileError, UserError
from vit_jax.models import PlainModule, Preprocessing
from vit_jax.training import run_folder
from vit_jax.training.evaluation import load_state
from vit_jax.training.experiment import Experiment


def trained_model(
    workdir: str | os.PathLike[str],
    which: str | int = "last",
    average: bool = True,
    report: Callable[[str], None] = print,
) -> folder.Model:
    """Reads the model out of a run's checkpoint, whatever mesh it was trained on.

    Several processes call it together; each gets the whole model.

    Args:
        workdir: of the run.
        which: "last", "best" (by `checkpoint.best_metric`) or a step.
        average: takes the running average of the parameters where the run keeps one.
        report: is given the sentences a user should read.

    Raises:
        MissingFileError: there is no run, or it has no such checkpoint.
    """
    config = run_folder.read_config(workdir)
    experiment = _on_a_device_each(config)
    directory = run_folder.checkpoints_dir(workdir)
    with experiment.activate():  # where another run is active, which starts from this one
        state, record = load_state(experiment, directory, which, report, average=average)
    trained = state.averaged_params if average else state.params
    params = experiment.objective.exported_params(trained, state.extra)
    params = jax.tree.map(np.asarray, params)
    names = tuple(record.notes["classes"])
    named = len(names) == experiment.module.num_classes  # there may be no head, or more outputs
    return folder.Model(
        experiment.module,
        params,
        _preprocessing(config, report),
        config.model.name,
        origin={"source": os.fspath(workdir), "layout": "vit_jax", "step": record.step},
        class_names=names if named else None,
        probabilities=config.objective.get("loss", "softmax"),
    )


def _preprocessing(config: ConfigDict, report: Callable[[str], None]) -> Preprocessing:
    """How the run's evaluation prepares pictures."""
    default = models.preprocessing(config.model.name)
    usual = dataclasses.replace(
        default,
        mean=tuple(config.data.mean or default.mean),
        std=tuple(config.data.std or default.std),
        interpolation=config.data.interpolation or default.interpolation,
    )
    spec = config.data.eval_transform
    if spec is None:
        return usual
    found = described(spec, usual)
    if found is None:
        report(
            f"the run is evaluated with data.eval_transform={spec!r}, which no preprocessing of a "
            f"model is; in its place there is now {usual}"
        )
    return found or usual


def _on_a_device_each(config: ConfigDict) -> Experiment:
    """The experiment with one device of each process, all of which hold the whole state."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    config.mesh = dict.fromkeys(config.mesh, 1) | {"data": len(first)}
    config.data.batch_size = len(first) * config.accumulate_steps  # no batch is made
    config.data.eval_batch_size = len(first)
    return Experiment(config, [first[index] for index in sorted(first)])


def open_model(
    source: str | os.PathLike[str],
    model: str | PlainModule | None = None,
    *,
    which: str | int = "last",
    average: bool = True,
    report: Callable[[str], None] = print,
    mapping: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    key: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> folder.Model:
    """Opens any model there is: of a run, converted, or of another library.

        model = vit_jax.open_model("runs/digits")
        logits = model.module.apply({"params": model.params}, images)

    Args:
        source: folder of a run, here or in an object store; what `vit-jax convert` wrote; a file or
            folder of weights; or a hub id, `hf-hub:owner/name` or `timm/name`.
        model: what it is, where the source does not say it; see `convert.pretrained.load`.
        which: of a run, see `trained_model`.
        average: of a run, see `trained_model`.
        report: is given the sentences a user should read.
        mapping: this and the following: of other weights, see `convert.pretrained.load`.
        revision: see there.
        key: see there.
        cache_dir: see there.
        offline: see there.

    Returns:
        The module, its NumPy parameters and what is known about it.

    Raises:
        MissingFileError: there is nothing of that name, or no model in it.
        UserError: it cannot be read; or an option is given that has no meaning for it.
    """
    how = dict(mapping=mapping, revision=revision, key=key)
    if run_folder.holds_run(source):
        pretrained.refuse_idle(source, **how)
        return pretrained.agreeing(trained_model(source, which, average, report), model, source)
    if which != "last" or not average:
        raise UserError(
            f"{os.fspath(source)} is not a run with checkpoints, and only these have several, and "
            f"averages: leave out the choice (checkpoint {which!r}, average={average})"
        )
    try:
        return pretrained.load(source, model, **how, cache_dir=cache_dir, offline=offline)[0]
    except NoCheckpointError as error:
        raise MissingFileError(
            f"{os.fspath(source)} is neither the folder of a run with a checkpoint "
            f"({run_folder.CONFIG} and checkpoints), nor what vit-jax convert writes "
            f"({folder.DESCRIPTION}), nor are weights of another library in it: {error.cause}"
        ) from error
