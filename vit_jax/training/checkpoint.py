"""Checkpoints: written in the background, checked when read.

A checkpoint `DIRECTORY/<step>` holds every array of the state under a flat name such as
`params.blocks_0.norm1.scale`, and a record of them (see `vit_jax.training.record`).

Orbax writes to a temporary folder and renames it, so a kill leaves no half checkpoint (in an
object store a last file marks one that is whole: see `object_store`, the only other file that
imports Orbax); and it restores onto any mesh. What is added here: names, shapes and dtypes are
compared (Orbax casts silently), every array has a checksum (Orbax does not notice every flipped
bit), and where the latest checkpoint is damaged, an earlier one is taken.
"""

import contextlib
import copy
import dataclasses
import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from vit_jax import storage
from vit_jax.errors import UserError
from vit_jax.storage import first_line
from vit_jax.training import distributed, object_store
from vit_jax.training.checksum import checksums
from vit_jax.training.ranking import Ranking
from vit_jax.training.record import (
    DamagedCheckpointError,
    Record,
    check_wanted,
    flatten,
    read_record,
    seal,
    start_record,
)

RECORD = "metadata"  # the file's name
LEAST_PART = 2**16  # bytes of an array that a device writes, where all have it and share the work


class CheckpointError(UserError, RuntimeError):
    """A checkpoint could not be written, or none could be read."""


def saved_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Returns the steps that have a complete checkpoint in `directory`, in ascending order."""
    directory = storage.path(directory)
    # An unfinished one has a longer name until it is renamed, or is told by `is_complete`.
    steps = sorted(int(name) for name in storage.entries(directory) if name.isdigit())
    return [step for step in steps if object_store.is_complete(directory / str(step))]


def record_of(directory: str | os.PathLike[str], step: int) -> Record:
    """Returns the record of the checkpoint of `step`.

    Raises:
      DamagedCheckpointError: it cannot be read, or was changed.
    """
    return read_record(storage.path(directory) / str(step) / "record" / RECORD)


def restore(directory: str | os.PathLike[str], step: int, targets: Any) -> tuple[Any, Record]:
    """Reads the checkpoint of `step`; with several processes all of them have to.

    Args:
      directory: of the checkpoints.
      step: one of `saved_steps(directory)`.
      targets: a tree of `jax.ShapeDtypeStruct` with shardings, on any mesh; a field of the state
        that is None is not read.

    Returns:
      The tree of arrays, and the record.

    Raises:
      UserError: an array is missing, or has another shape or dtype than is wanted.
      DamagedCheckpointError: what is on the disk is not what was written.
    """
    path = storage.absolute(directory) / str(step)
    record = record_of(directory, step)
    wanted = flatten(targets)
    check_wanted(record, wanted, str(path))
    arrays = _read_arrays(path / "state", wanted)
    for name, checksum in checksums(arrays).items():
        if checksum != record.arrays[name]["checksum"]:
            raise DamagedCheckpointError(f"the checksum of {name} is wrong")
    return jax.tree.unflatten(jax.tree.structure(targets), list(arrays.values())), record


def restore_first(
    directory: str | os.PathLike[str],
    steps: Sequence[int],
    targets: Any,
    warn: Callable[[str], None],
) -> tuple[Any, Record, list[int]]:
    """Reads the first of several checkpoints that is not damaged.

    Args:
      directory: of the checkpoints.
      steps: the steps in the order in which to try them.
      targets: as for `restore`.
      warn: is given a sentence for each damaged checkpoint, and one for the way out.

    Returns:
      The tree of arrays, the record, and the steps that were found to be damaged.

    Raises:
      UserError: a checkpoint is of another state.
      CheckpointError: all are damaged.
    """
    damaged: list[int] = []
    for step in steps:
        try:
            state, record = restore(directory, step, targets)
        except DamagedCheckpointError as error:
            storage.check(directory)  # a store that is out of reach damages nothing
            warn(f"the checkpoint of step {step} is damaged: {error}")
            damaged.append(step)
            continue
        if damaged:
            warn(f"taking the checkpoint of step {step} instead")
        return state, record, damaged
    raise CheckpointError(
        f"no checkpoint in {directory} can be read, tried {', '.join(map(str, steps))}; "
        "to start anew, move the folder away"
    )


def _read_arrays(path: Path, wanted: dict[str, Any]) -> dict[str, jax.Array]:
    """Reads arrays by name; either every process gets its part or every process raises."""
    arrays, failure = {}, None
    if storage.is_remote(path):
        object_store.prepare()
    try:
        # Not through a CheckpointManager: with several processes one that fails would leave the
        # others waiting for it.
        restored = ocp.PyTreeCheckpointHandler().restore(
            epath.Path(path),
            args=ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )
        arrays = {name: restored[name] for name in wanted}
    except Exception as error:  # whatever Orbax and TensorStore make of what they find
        failure = error
    if distributed.on_any(failure is not None):
        reason = "on another process" if failure is None else first_line(failure)
        raise DamagedCheckpointError(f"it cannot be read: {reason}") from failure
    return arrays


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    """Writes an array that several devices have in parts, one by each, where parts are large.

    A part takes a program of its own, for each shape and place, which has to be compiled: of a
    small model on eight devices those of the first checkpoint took longer than the train step.
    """
    arrays = copy.copy(ocp.type_handlers.get_type_handler(jax.Array))
    # Only its `__init__` has a public name for this, and what else the handler is given has none.
    arrays._min_slice_bytes_for_replica_parallel = LEAST_PART
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


class _RecordHandler(ocp.JsonCheckpointHandler):
    """Writes a record in the background, once its checksums have come off the devices."""

    async def async_save(
        self, directory: epath.Path, item: None = None, args: "_RecordSave | None" = None
    ) -> list[ocp.future.Future]:
        """Returns what Orbax waits for before the checkpoint is complete."""
        writing = self._write(directory, args.finish)
        return [ocp.future.CommitFutureAwaitingContractedSignals(writing, name="record")]

    async def _write(self, directory: epath.Path, finish: Callable[[], Record]) -> None:
        if jax.process_index() == 0:
            (directory / RECORD).write_text(json.dumps(seal(finish())))


@ocp.args.register_with_handler(_RecordHandler, for_save=True, for_restore=True)  # Orbax wants both
@dataclasses.dataclass
class _RecordSave(ocp.args.CheckpointArgs):
    finish: Callable[[], Record]


class Checkpoints:
    """Writes the checkpoints of one run; with several processes all make the same calls."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        keep_best: int = 0,
        best_metric: str = "top1",
        best_mode: str = "max",
    ):
        """Opens the folder; what an interrupted save left there is removed.

        Args:
          directory: of the checkpoints; made where it is missing.
          keep_last: number of the latest checkpoints that are kept.
          keep_best: number of those with the best metric that are kept as well.
          best_metric: name of that metric.
          best_mode: "max" or "min".
        """
        self._directory = storage.absolute(directory)  # Orbax fails late on a relative one
        self._ranking = rank(self._directory, best_metric, best_mode, keep_best)
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_handlers={"state": _state_handler(), "record": _RecordHandler()},
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                preservation_policy=_KeepLastAndBest(keep_last, self._ranking),
                async_options=ocp.options.AsyncOptions(barrier_sync_fn=_Barrier()),
                save_root_metadata=False,
                **object_store.manager_options(self._directory),
            ),
        )

    def is_among_best(self, metrics: dict[str, float]) -> bool:
        """Returns whether a checkpoint with these metrics would be kept for its metric.

        Raises:
          UserError: the metric to rank by is not among them.
        """
        return self._ranking.would_take(metrics)

    def save(
        self, state: Any, step: int, metrics: dict[str, float] | None, notes: dict[str, Any]
    ) -> None:
        """Copies the state off the devices and starts to write it; `wait` for the end.

        Args:
          state: the tree of arrays.
          step: number of updates made.
          metrics: of the evaluation at this step, if there was one.
          notes: small values that JSON can hold.

        Raises:
          CheckpointError: this checkpoint or the one before could not be written.
        """
        self.wait()
        arrays = flatten(state)
        finish = start_record(step, metrics, notes, arrays)
        self._ranking.add(step, metrics)
        with self._explained():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(arrays),
                    record=_RecordSave(finish),
                ),
                force=True,  # without it a save that Orbax sees no need for is left out silently
            )

    def is_writing(self) -> bool:
        """Whether the latest checkpoint is not complete yet."""
        return self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Waits until the latest checkpoint is complete on the disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with self._explained():
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for the latest checkpoint; its error is not to hide one that is on its way."""
        try:
            with self._explained():
                self._manager.close()
        except CheckpointError:
            if error is None:
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Orbax and TensorStore make of the state of the disk
            complete = ", ".join(map(str, saved_steps(self._directory))) or "none"
            raise CheckpointError(
                f"a checkpoint could not be written to {self._directory}: {first_line(error)}. "
                f"Complete checkpoints there, by step: {complete}. Remove the cause (a full disk?) "
                "and give the same command again to go on from the last of them."
            ) from error

    def restore_latest(
        self, targets: Any, warn: Callable[[str], None]
    ) -> tuple[Any, Record] | None:
        """Reads the latest checkpoint that is not damaged.

        Once an undamaged one was read, later ones are moved to the folder `damaged_checkpoints`
        beside this one, so that their steps can be saved again.

        Args:
          targets: as for `restore`.
          warn: is given a sentence for each damaged checkpoint.

        Returns:
          The tree of arrays and the record, or None where there is no checkpoint at all.

        Raises:
          UserError: the checkpoint is of another state.
          CheckpointError: there are checkpoints, and all are damaged.
        """
        steps = saved_steps(self._directory)[::-1]
        if not steps:
            return None
        state, record, damaged = restore_first(self._directory, steps, targets, warn)
        for step in damaged:
            self._set_aside(step)
        return state, record

    def _set_aside(self, step: int) -> None:
        shelf = self._directory.parent / "damaged_checkpoints"
        names = itertools.chain([f"{step}"], map(f"{step}.{{}}".format, itertools.count(2)))
        if jax.process_index() == 0:
            storage.make_folder(shelf)
            free = next(shelf / name for name in names if not (shelf / name).exists())
            storage.move_folder(self._directory / str(step), free)
        distributed.on_any(False)  # wait for process 0
        self._ranking.remove(step)
        self._manager.reload()


class _Barrier:
    """Where the threads of Orbax wait for those of other processes.

    One of them comes here while it handles an exception too: its process could not write its part.
    The others are not going to come, they wait for that part, and Orbax would give up after twenty
    minutes. Here the exception goes on instead, and the process can end.
    """

    def __init__(self):
        self._main = threading.get_ident()  # its caller may be handling some other exception

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        failure = sys.exception() if threading.get_ident() != self._main else None
        if failure is not None:
            raise failure
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@dataclasses.dataclass
class _KeepLastAndBest:
    """An Orbax preservation policy."""

    keep_last: int
    ranking: Ranking

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint, in ascending order of steps, whether it stays."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.keep_last :], *self.ranking.best(steps)}
        return [step in kept for step in steps]


def rank(directory: str | os.PathLike[str], metric: str, mode: str, keep: int) -> Ranking:
    """Returns the ranking of the checkpoints in `directory`; damaged records have no rank."""
    ranking = Ranking(metric, mode, keep)
    for step in saved_steps(directory):
        with contextlib.suppress(DamagedCheckpointError):
            ranking.add(step, record_of(directory, step).metrics)
    return ranking


def report_failures_once() -> None:
    """Keeps Orbax from printing what it also raises; for programs, not for libraries.

    Where a read or write fails, it logs a traceback, and it abandons others that are under way,
    each of which makes Python print one more.
    """
    for library in ("asyncio", "gcsfs"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    orbax = f"{os.sep}orbax{os.sep}"
    logging.getLogger("absl").addFilter(lambda record: orbax not in record.pathname)

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook
