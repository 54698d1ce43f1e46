"""Evaluation: every example of a split exactly once, on any mesh."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import data
from vit_jax.errors import MissingFileError
from vit_jax.objectives.base import PerExample
from vit_jax.training import checkpoint, distributed, overrides, run_folder
from vit_jax.training.config import OPEN_SECTIONS
from vit_jax.training.experiment import Experiment
from vit_jax.training.state import TrainState
from vit_jax.training.step import make_masked_sums


class Evaluator:
    """Evaluates states of an experiment on one split; jitted functions are kept between calls."""

    def __init__(self, experiment: Experiment, source: data.Source):
        """Binds an experiment to the examples of a split."""
        self._experiment, self._source = experiment, source
        self._jitted: dict[Any, Callable[..., Any]] = {}

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns the results of the objective's evaluation, by plain names.

        The running average of the parameters is evaluated where the state has one.
        """
        context = Context(self, state.averaged_params, state.extra)
        with self._experiment.activate():
            results = self._experiment.objective.evaluation(context)
        return {name: float(value) for name, value in results.items()}

    def masked_means(self, per_example: PerExample, params: Any, extra: Any) -> dict[str, float]:
        """Returns the means of what `per_example` says of each example of the split.

        Sums over a batch are taken on the devices, sums over batches in float64 on the host.

        Raises:
          RuntimeError: the number of examples seen is not that of the split.
        """
        if per_example not in self._jitted:
            self._jitted[per_example] = make_masked_sums(
                per_example, self._experiment.normalize, self._experiment.replicated
            )
        totals: dict[str, np.float64] = {}
        seen = 0
        with self._experiment.eval_batches(self._source) as batches:
            for batch in batches:
                sums, count = jax.device_get(self._jitted[per_example](params, extra, batch))
                seen += int(count)
                for name, value in sums.items():
                    totals[name] = totals.get(name, np.float64(0)) + np.float64(value)
        self._check_count(seen)
        return {name: float(total / seen) for name, total in totals.items()}

    def _check_count(self, seen: int) -> None:
        expected = len(self._source)
        may_skip = self._experiment.config.data.on_error == "skip"
        if seen > expected or (seen < expected and not may_skip) or seen == 0:
            raise RuntimeError(f"the evaluation saw {seen} examples of a split of {expected}")


class Context:
    """What the loop lends to `Objective.evaluation`, see `vit_jax.objectives.base`."""

    def __init__(self, evaluator: Evaluator, params: Any, extra: Any):
        self.params, self.extra = params, extra
        self._evaluator = evaluator

    def masked_means(self, per_example: PerExample) -> dict[str, float]:
        """Returns the means of `per_example` over the split, each example counted once."""
        return self._evaluator.masked_means(per_example, self.params, self.extra)


def evaluate(
    workdir: str | os.PathLike[str],
    which: str | int = "last",
    changes: Iterable[str] = (),
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Evaluates a checkpoint of a run on its evaluation split.

    Args:
      workdir: of the run.
      which: "last", "best" (by `checkpoint.best_metric`) or a step.
      changes: overrides such as `data.eval_split=validation` or `mesh.data=1`.
      report: is given the sentences a user should read.

    Returns:
      The results by plain names.

    Raises:
      MissingFileError: there is no run, or it has no such checkpoint.
      UserError: an override is wrong.
    """
    config = run_folder.read_config(workdir)
    config.distributed = dict.fromkeys(config.distributed) | {"auto": False}
    for change in changes:
        overrides.apply(config, change, OPEN_SECTIONS)
    distributed.initialize(config.distributed)
    source = data.open_source(config.data.source, config.data.eval_split, config.data.data_dir)
    experiment = Experiment(config)
    say = report if jax.process_index() == 0 else lambda _: None
    state, step = _load(experiment, run_folder.checkpoints_dir(workdir), which, say)
    results = Evaluator(experiment, source)(state)
    described = experiment.objective.describe(results)
    say(f"step {step}, {config.data.eval_split}, {len(source):,} examples: {described}")
    return results


def _load(
    experiment: Experiment, directory: Path, which: str | int, report: Callable[[str], None]
) -> tuple[TrainState, int]:
    """Reads what an evaluation needs of a checkpoint: parameters or their average, and extra."""
    targets = experiment.state_factory.targets()
    unused = {"params": None} if targets.ema is not None else {}
    targets = targets.replace(opt_state=None, **unused)
    steps = _candidates(experiment.config.checkpoint, directory, which)
    state, record, _ = checkpoint.restore_first(directory, steps, targets, report)
    return state, record.step


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
