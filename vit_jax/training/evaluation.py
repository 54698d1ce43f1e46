"""Evaluation: every example of a split exactly once, on any mesh."""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import data
from vit_jax.errors import MissingFileError, UserError
from vit_jax.objectives.base import OfBatch, PerExample
from vit_jax.training import adapters_only, checkpoint, classes, distributed, overrides, run_folder
from vit_jax.training.config import OPEN_SECTIONS, base_config
from vit_jax.training.experiment import Experiment
from vit_jax.training.record import Record
from vit_jax.training.resolve import check, resolve
from vit_jax.training.state import TrainState
from vit_jax.training.step import make_masked_sums, make_of_batch


class Evaluator:
    """Evaluates states of an experiment on one split; jitted functions are kept between calls.

    Attributes:
      skipped: examples that could not be decoded, in the latest evaluation.
    """

    def __init__(self, experiment: Experiment, source: data.Source):
        """Binds an experiment to the examples of a split."""
        self._experiment, self._source = experiment, source
        self.skipped = 0
        self._jitted: dict[Any, Callable[..., Any]] = {}

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns the results of the objective's evaluation, by plain names.

        The running average of the parameters is evaluated where the state has one.
        """
        with self._experiment.activate():
            results = self._experiment.objective.evaluation(self._context(state))
        return {name: float(value) for name, value in results.items()}

    def pictures(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns the pictures of the objective, by plain names; of the running average as well."""
        with self._experiment.activate():
            return self._experiment.objective.pictures(self._context(state))

    def _context(self, state: TrainState) -> "Context":
        mean, std = self._experiment.mean_std
        return Context(self, state.averaged_params, state.extra, mean, std)

    def on_first_batch(self, function: OfBatch, params: Any, extra: Any) -> Any:
        """Returns what `function` makes of the split's first batch, as NumPy arrays."""
        if function not in self._jitted:
            self._jitted[function] = make_of_batch(
                function, self._experiment.normalize, self._experiment.replicated
            )
        with self._experiment.eval_batches(self._source) as batches:
            return jax.device_get(self._jitted[function](params, extra, next(batches)))

    def masked_means(self, per_example: PerExample, params: Any, extra: Any) -> dict[str, float]:
        """Returns the means of what `per_example` says of each example of the split.

        Sums over a batch are taken on the devices, sums over batches in float64 on the host.

        Raises:
          UserError: none could be decoded.
          RuntimeError: the examples seen and those that could not be decoded are not the split.
        """
        if per_example not in self._jitted:
            self._jitted[per_example] = make_masked_sums(
                per_example, self._experiment.normalize, self._experiment.replicated
            )
        totals: dict[str, np.float64] = {}
        seen = skipped = 0
        with self._experiment.eval_batches(self._source) as batches:
            for batch in batches:
                sums, real, bad = jax.device_get(self._jitted[per_example](params, extra, batch))
                seen, skipped = seen + int(real), skipped + int(bad)
                for name, value in sums.items():
                    totals[name] = totals.get(name, np.float64(0)) + np.float64(value)
        self._check_counts(seen, skipped)
        self.skipped = skipped
        return {name: float(total / seen) for name, total in totals.items()}

    def _check_counts(self, seen: int, skipped: int) -> None:
        if seen + skipped != len(self._source):
            raise RuntimeError(
                f"the evaluation saw {seen:,} examples and skipped {skipped:,}, of a split of "
                f"{len(self._source):,}"
            )
        if not seen:
            raise UserError(f"none of the {skipped:,} examples of the split could be decoded")

    def report(self, step: int, results: dict[str, float]) -> str:
        """Returns what a user should read of the latest evaluation: a line, or a warning too.

        Args:
          step: number of updates made.
          results: of the evaluation.
        """
        examples = f"{len(self._source):,} examples"
        if self.skipped:
            seen = len(self._source) - self.skipped
            examples = f"{seen:,} of {examples}, {self.skipped:,} could not be decoded"
        described = self._experiment.objective.describe(results)
        line = f"step {step}, {self._experiment.config.data.eval_split}, {examples}: {described}"
        wrong = [
            f"{name} is {value}" for name, value in results.items() if not math.isfinite(value)
        ]
        if not wrong:
            return line
        return f"{line}\nWARNING: {', '.join(wrong)}; trust no number of this evaluation"


class Context:
    """What the loop lends to `Objective.evaluation`, see `vit_jax.objectives.base`."""

    def __init__(
        self,
        evaluator: Evaluator,
        params: Any,
        extra: Any,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        self.params, self.extra = params, extra
        self.mean, self.std = mean, std
        self._evaluator = evaluator

    def masked_means(self, per_example: PerExample) -> dict[str, float]:
        """Returns the means of `per_example` over the split, each example counted once."""
        return self._evaluator.masked_means(per_example, self.params, self.extra)

    def on_first_batch(self, function: OfBatch) -> Any:
        """Returns what `function` makes of the first batch of the split, as NumPy arrays."""
        return self._evaluator.on_first_batch(function, self.params, self.extra)


def evaluate(
    workdir: str | os.PathLike[str],
    which: str | int = "last",
    changes: Iterable[str] = (),
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Evaluates a checkpoint of a run on its evaluation split.

    Several processes: see `vit_jax.training.loop.train`.

    Args:
      workdir: of the run.
      which: "last", "best" (by `checkpoint.best_metric`) or a step.
      changes: overrides such as `data.eval_split=validation` or `mesh.data=1`.
      report: is given the sentences a user should read.

    Returns:
      The results by plain names.

    Raises:
      MissingFileError: there is no run, or it has no such checkpoint.
      UserError: an override is wrong, or the data has other classes than the run was trained on.
    """
    config = run_folder.read_config(workdir)
    config.distributed = base_config().distributed
    for change in changes:
        overrides.apply(config, change, OPEN_SECTIONS)
    check(config)
    distributed.initialize(config.distributed)
    source = data.open_source(config.data.source, config.data.eval_split, config.data.data_dir)
    # Every duration is in steps already, so the number of examples is of no effect.
    experiment = Experiment(resolve(config, len(source), source.num_classes))
    say = report if jax.process_index() == 0 else lambda _: None
    state, record = load_state(experiment, run_folder.checkpoints_dir(workdir), which, say)
    classes.check_same(
        f"split {config.data.eval_split!r} of {config.data.source}",
        source.class_names,
        f"what the run in {os.fspath(workdir)} was trained on",
        record.notes["classes"],
    )
    evaluator = Evaluator(experiment, source)
    results = evaluator(state)
    say(evaluator.report(record.step, results))
    return results


def load_state(
    experiment: Experiment,
    directory: Path,
    which: str | int,
    report: Callable[[str], None],
    *,
    average: bool = True,
) -> tuple[TrainState, Record]:
    """Reads a checkpoint without the optimizer's state.

    Args:
      experiment: of the run.
      directory: of the checkpoints.
      which: see `evaluate`.
      report: is given the sentences a user should read.
      average: reads the running average of the parameters, where there is one, in their place.
    """
    targets = experiment.state_factory.targets()
    unused = {"params": None} if average and targets.ema is not None else {"ema": None}
    targets = targets.replace(opt_state=None, **unused)
    steps = _candidates(experiment.config.checkpoint, directory, which)
    targets = adapters_only.saved(experiment.config, targets)
    state, record, _ = checkpoint.restore_first(directory, steps, targets, report)
    return adapters_only.completed(experiment, state, record), record


def _candidates(options: Any, directory: Path, which: str | int) -> list[int]:
    """Steps of checkpoints in the order in which to try them."""
    steps = checkpoint.saved_steps(directory)
    if not steps:
        raise MissingFileError(f"there is no checkpoint in {directory}")
    if which == "last":
        return steps[::-1]
    if which == "best":
        metric, mode = options.best_metric, options.best_mode
        best = checkpoint.rank(directory, metric, mode, keep=len(steps)).best(steps)
        if not best:
            raise MissingFileError(f"no checkpoint in {directory} has the metric {metric!r}")
        return best
    if str(which) in map(str, steps):
        return [int(which)]
    raise MissingFileError(
        f"there is no checkpoint {which!r} in {directory}; expected 'last', 'best' or one of "
        f"{', '.join(map(str, steps))}"
    )
