"""The model that a run has trained, apart from the run."""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.convert import folder
from vit_jax.convert.export import export
from vit_jax.errors import MissingFileError
from vit_jax.models import Preprocessing
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
    default = models.preprocessing(config.model.name)
    preprocessing = Preprocessing(
        mean=tuple(config.data.mean or default.mean),
        std=tuple(config.data.std or default.std),
        interpolation=config.data.interpolation or default.interpolation,
        crop_pct=default.crop_pct,
        crop_mode=default.crop_mode,
    )
    origin = {"source": os.fspath(workdir), "layout": "vit_jax", "step": record.step}
    name = config.model.name
    return folder.Model(experiment.module, params, preprocessing, name, origin)


def _on_a_device_each(config: ConfigDict) -> Experiment:
    """The experiment with one device of each process, all of which hold the whole state."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    config.mesh = dict.fromkeys(config.mesh, 1) | {"data": len(first)}
    config.data.batch_size = len(first) * config.accumulate_steps  # no batch is made
    config.data.eval_batch_size = len(first)
    return Experiment(config, [first[index] for index in sorted(first)])


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    format: str,
    *,
    mapping: str | os.PathLike[str] | None = None,
    which: str | int = "last",
    average: bool = True,
    report: Callable[[str], None] = print,
) -> None:
    """Writes a run's model, or a converted one, for another library; see `convert.export.export`.

    Args:
        checkpoint: folder of a run, or what `vit-jax convert` wrote.
        output: a new folder.
        format: "transformers", "timm", "npz", "mae" or "own"; or "vit_jax", what `vit-jax convert`
            writes.
        mapping: for "own": see `convert.own`.
        which: of a run, see `trained_model`.
        average: of a run, see `trained_model`.
        report: is given the sentences a user should read.

    Raises:
        UserError: there is no such checkpoint, or the format cannot hold the model.
    """
    folder.check_free(Path(output))
    if folder.is_converted(checkpoint):
        model = folder.read(checkpoint)
    elif run_folder.is_run(checkpoint):
        model = trained_model(checkpoint, which, average, report)
    else:
        raise MissingFileError(
            f"{os.fspath(checkpoint)} is neither the folder of a run ({run_folder.CONFIG}) nor "
            f"what vit-jax convert writes ({folder.DESCRIPTION})"
        )
    if format == "vit_jax":
        folder.save(output, model)
        report(f"checkpoint: {output}")
        return
    layout = export(model, output, format, mapping)
    report(f"written in {format}'s layout ({layout.name}, {layout.family}): {output}")
