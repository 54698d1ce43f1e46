"""The training loop: it knows steps, files and signals, and nothing of what is learned."""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax import data, printing, storage
from vit_jax.errors import UserError
from vit_jax.training import (
    adapters_only,
    classes,
    compilation_cache,
    distributed,
    report,
    run_folder,
)
from vit_jax.training.checkpoint import Checkpoints, saved_steps
from vit_jax.training.evaluation import Evaluator
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import initial_state
from vit_jax.training.load_teacher import load_model
from vit_jax.training.metrics import MetricWriter, ProgressBar
from vit_jax.training.monitor import Monitor, NonFiniteError
from vit_jax.training.preemption import Preemption
from vit_jax.training.record import Record
from vit_jax.training.resolve import check, resolve
from vit_jax.training.signals import StopSignals
from vit_jax.training.state import TrainState
from vit_jax.training.stopwatch import Stopwatch
from vit_jax.training.trace import Trace


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      state: the last state, on the devices.
      step: number of updates made.
      completed: False where a signal ended the run early; the same call resumes it.
      metrics: of the final evaluation, None where the run is not complete.
      checkpoint: folder of the checkpoint of `state`, None where no step was made.
    """

    state: TrainState
    step: int
    completed: bool
    metrics: dict[str, float] | None
    checkpoint: Path | None


def train(
    config: ConfigDict, workdir: str | os.PathLike[str], signals: StopSignals | None = None
) -> Result:
    """Trains what `config` describes, or resumes what was begun in `workdir`.

    With several processes, one that fails alone has to end for the others to notice. An exception
    that nothing catches sees to that, see `vit_jax.training.distributed`.

    Args:
      config: see `vit_jax.training.config`.
      workdir: the folder of the run, on a file system that all processes see, or the URL of one in
        an object store (docs/storage.md).
      signals: where SIGTERM and SIGINT are remembered already; None: from now on.

    Raises:
      UserError: the configuration is not consistent, or `workdir` holds a run of another one.
      NonFiniteError: the loss became NaN or infinite; the last good checkpoint stays.
      CheckpointError: a checkpoint could not be written, or none could be read.
      LostProcessError: another process of the run is gone.
    """
    if signals is None:
        with StopSignals() as signals:
            return train(config, workdir, signals)
    check(config)
    distributed.initialize(config.distributed)
    return _run(config, storage.path(workdir), Preemption(signals))


def _run(config: ConfigDict, workdir: Path, preemption: Preemption) -> Result:
    """`train`, once the processes are connected and signals are remembered."""
    train_source, eval_source = (
        data.open_source(config.data.source, split, config.data.data_dir)
        for split in (config.data.train_split, config.data.eval_split)
    )
    config = resolve(config, len(train_source), train_source.num_classes)
    teacher = functools.partial(load_model, class_names=train_source.class_names)
    experiment = Experiment(config, load_model=teacher)
    _check_classes(experiment, train_source, eval_source)
    run_folder.claim(workdir, config)
    compilation_cache.enable(config.compilation_cache, workdir)
    with contextlib.ExitStack() as stack:
        run = _Run(stack, experiment, workdir, train_source, eval_source, preemption)
        try:
            return run.to_the_end()
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}; {run.last_good()}") from None
        except jax.errors.JaxRuntimeError as error:
            if not distributed.is_of_others(error):
                raise
            raise distributed.LostProcessError(
                f"another process of this run is gone ({str(error).splitlines()[0]}); "
                f"{run.last_good(wait=False)}. Start all processes again to go on from there"
            ) from error


def _check_classes(experiment: Experiment, train: data.Source, evaluation: data.Source) -> None:
    """Raises UserError where labels do not mean what the model's outputs mean."""
    classes.check_same(
        "the evaluation split", evaluation.class_names, "the training split", train.class_names
    )
    outputs = experiment.module.num_classes
    if 0 < outputs < train.num_classes:
        raise UserError(
            f"config.model.num_classes is {outputs}, the data has {train.num_classes} classes; "
            "leave it out to take the data's"
        )


class _Run:
    """The state, and all that is open while it trains."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        experiment: Experiment,
        workdir: Path,
        train_source: data.Source,
        eval_source: data.Source,
        preemption: Preemption,
    ):
        self._experiment, self._config = experiment, experiment.config
        self._preemption = preemption
        self._source, self._evaluator = train_source, Evaluator(experiment, eval_source)
        self._directory = run_folder.checkpoints_dir(workdir)
        options = self._config.checkpoint
        self._checkpoints = stack.enter_context(
            Checkpoints(
                self._directory,
                keep_last=options.keep_last,
                keep_best=options.keep_best,
                best_metric=options.best_metric,
                best_mode=options.best_mode,
            )
        )
        _say(self._header())
        self._state, record = self._first_state()
        self._left_out = adapters_only.notes(self._config, self._state)
        self._step = record.step
        self._metrics = record.metrics  # of the evaluation at this step
        self._writer = stack.enter_context(
            contextlib.closing(MetricWriter(workdir, record.step or None))
        )
        self._bar = stack.enter_context(
            contextlib.closing(ProgressBar(self._config.total_steps, record.step))
        )
        self._trace = stack.enter_context(
            contextlib.closing(Trace(self._config.profile, workdir, self._bar.write, record.step))
        )
        self._stopwatch = Stopwatch()
        self._monitor = Monitor(
            self._config,
            stopwatch=self._stopwatch,
            writer=self._writer,
            bar=self._bar,
            train_examples=len(train_source),
            flops_per_image=experiment.training_flops(),
            skipped=record.notes["skipped"],
        )

    def _header(self) -> str:
        state = self._experiment.state_factory
        shapes = state.shapes
        header = report.run_header(
            self._config.model.name,
            self._experiment.all_shapes(),
            shapes.params,
            (self._experiment.module.flops(), self._experiment.training_flops()),
            self._experiment.mesh,
            self._config.data.batch_size,
            state_bytes=report.bytes_a_device(state.shapes, state.shardings),
            batch_axes=self._experiment.batch_axes,
            accumulate_steps=self._config.accumulate_steps,
        )
        width = printing.columns(sys.stdout)
        table = report.parameter_table(shapes.params, state.shardings.params, width)
        return f"{table}\n{header}\ncache   {compilation_cache.place()}: compiled programs"

    def _first_state(self) -> tuple[TrainState, Record]:
        """Returns the latest good checkpoint's state, or a new one."""
        targets = adapters_only.saved(self._config, self._experiment.state_factory.targets())
        restored = self._checkpoints.restore_latest(targets, _say)
        if restored is None:
            state = initial_state(self._experiment, self._directory.parent, _say)
            return state, Record(0, None, self._notes(0), {})
        state, record = restored
        if record.notes["data"] != self._source.fingerprint:
            raise UserError(
                f"the training data is not that of the run in {self._directory.parent}: its "
                f"fingerprint is {self._source.fingerprint}, it was {record.notes['data']}; "
                "start a run in another workdir"
            )
        if record.notes.get("constants") != self._experiment.fingerprint():
            raise UserError(
                f"the teacher is not that of the run in {self._directory.parent}: its fingerprint "
                f"is {self._experiment.fingerprint()}, it was {record.notes.get('constants')}; "
                "give the one of the beginning, or start a run in another workdir"
            )
        _say(f"resuming after step {record.step}")
        return adapters_only.completed(self._experiment, state, record), record

    def to_the_end(self) -> Result:
        """Trains up to the last step, or until a signal."""
        with self._experiment.activate():
            completed = self._train()
            self._checkpoints.wait()
        checkpoint = self._directory / str(self._step) if self._step else None
        self._bar.close()
        _say(self._farewell(completed, checkpoint))
        metrics = self._metrics if completed else None
        return Result(self._state, self._step, completed, metrics, checkpoint)

    def _train(self) -> bool:
        """Makes the steps that are left; returns False where a signal ended it early."""
        total, train_step = self._config.total_steps, self._experiment.train_step()
        if self._step == total:
            return True
        if self._preemption.before_the_first_step():
            return False  # there is nothing to save
        with self._experiment.train_batches(self._source, self._step) as batches:
            first = next(batches)
            train_step.lower(self._state, first, self._wish_to_stop()).compile()
            # Compiling takes a while, for some longer than for others: all wait for the last.
            if self._preemption.before_the_first_step():
                return False
            batches = itertools.chain([first], batches)
            while self._step < total:
                with self._stopwatch.of("input"):
                    batch = next(batches)
                with self._trace.step(self._step + 1, lambda: self._state):
                    self._state, metrics = train_step(self._state, batch, self._wish_to_stop())
                self._step += 1
                self._monitor.add(self._step, metrics)
                if self._evaluate_and_save():
                    return False
        return True

    def _wish_to_stop(self) -> jax.Array:
        return self._preemption.wish(self._experiment.mesh)

    def _due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        at_end = self._step == self._config.total_steps
        return at_end or (every is not None and self._step % every == 0)

    def _evaluate_and_save(self) -> bool:
        """Does what is due after this step; returns whether a signal ends the run here.

        The evaluation comes first then too: its results belong into the checkpoint, and after this
        checkpoint there is no other moment for it.
        """
        self._metrics = self._evaluate() if self._due(self._config.eval_every_steps) else None
        stopping = self._preemption.decided(self._monitor.stop)
        stopping = stopping and self._step < self._config.total_steps
        if stopping or self._worth_saving():
            self._save()
        return stopping

    def _worth_saving(self) -> bool:
        """Whether a checkpoint is due, or the state is among the best so far."""
        among_best = self._metrics is not None and self._checkpoints.is_among_best(self._metrics)
        return among_best or self._due(self._config.checkpoint.every_steps)

    def _evaluate(self) -> dict[str, float]:
        self._monitor.flush()
        with self._stopwatch.of("evaluation"):
            results = self._evaluator(self._state)
            may_skip = self._config.data.on_error == "skip"
            counts = {"skipped": self._evaluator.skipped} if may_skip else {}
            split = self._config.data.eval_split
            self._writer.write(self._step, split, {**results, **counts})
            self._writer.write_pictures(self._step, split, self._evaluator.pictures(self._state))
            self._bar.write(self._evaluator.report(self._step, results))
        return results

    def _save(self) -> None:
        self._monitor.flush()  # raises where the state is not worth saving
        with self._stopwatch.of("checkpoint"):
            self._writer.sync()  # what a checkpoint follows is not run again
            notes = self._notes(self._monitor.skipped)
            state = adapters_only.saved(self._config, self._state)
            self._checkpoints.save(state, self._step, self._metrics, notes | self._left_out)

    def _notes(self, skipped: int) -> dict[str, Any]:
        """What a checkpoint tells of the data, and of the teacher where there is one."""
        source, constants = self._source, self._experiment.fingerprint()
        names = list(source.class_names)
        notes = {"skipped": skipped, "data": source.fingerprint, "classes": names}
        return notes if constants is None else {**notes, "constants": constants}

    def last_good(self, wait: bool = True) -> str:
        """Says which checkpoint is the last; with `wait`, once what is being saved is complete."""
        if wait:
            self._checkpoints.wait()
        steps = saved_steps(self._directory)
        if not steps:
            return "there is no checkpoint before it"
        return f"the last good checkpoint is {self._directory / str(steps[-1])}"

    def _farewell(self, completed: bool, checkpoint: Path | None) -> str:
        if not completed:
            return (
                f"stopped after step {self._step} of {self._config.total_steps}; "
                f"the same command resumes\ncheckpoint: {checkpoint or 'none yet'}"
            )
        results = self._experiment.objective.describe(self._metrics)
        return f"{self._config.data.eval_split}: {results}\ncheckpoint: {checkpoint}"


def _say(text: str) -> None:
    """Prints on process 0."""
    if jax.process_index() == 0:
        print(text, flush=True)
