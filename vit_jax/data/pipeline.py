"""Batches, in an order and with an augmentation that depend on nothing but (seed, epoch, index).

Training sees an endless row of *positions* 0, 1, 2 ... Position p is the example at place
`p % n` of epoch `p // n`'s permutation of the n examples; batch k holds the positions
`[k * batch_size, (k + 1) * batch_size)`, and a process reads the rows of it that are asked for. So
the whole state of the pipeline is the number of the next batch: a run continues at any batch with
any number of worker processes and hosts and sees the same bytes.

With repeated augmentation, place q of an epoch shows example `q // repeats` of its permutation:
each example that is seen in an epoch is seen `repeats` times, one after the other and hence mostly
in one batch, each time augmented anew. An epoch stays n positions long, so that it shows the first
n / repeats examples of its permutation, and the next epoch those of another. That is the order of
DeiT's RASampler (Hoffer et al. 2020, "Augment your batch").

An epoch's permutation sorts the raw output of the Philox generator with key (seed, epoch). The
generator that augments example i in that epoch is Philox with the same key and a counter that
begins at (0, copy, 1 + skipped, i), `copy` counting the repeats of i: streams of different examples
cannot meet. (Philox: Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3".) NumPy guarantees the raw output of Philox, but
not what its Generator makes of it: the order is fixed for ever, augmentation for a NumPy version.

Grain runs it: whole batches are its elements, computed by threads (decoding releases Python's lock)
or by worker processes.
"""

import functools
import logging
import multiprocessing.connection
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from vit_jax.data.decode import DecodeError
from vit_jax.data.sources import Source
from vit_jax.data.transforms import Transform
from vit_jax.errors import UserError

Batch = dict[str, np.ndarray]
OnError = Literal["stop", "skip"]

FOREVER = 2**62  # batches; Grain's ranges end somewhere
MAX_THREADS = 8  # batches decoded at once in one process; each holds a batch in memory

_log = logging.getLogger(__name__)


class LabelError(UserError):
    """A label outside of 0 to num_classes - 1."""


class BatchIterator(Iterator[Batch]):
    """Iterates over batches; `close()`, or leaving a `with`, ends its threads and processes."""

    def __init__(self, grain_iterator: Any, count: int):
        self._iterator = grain_iterator  # None once closed: Grain's queues hold semaphores
        self._left = count
        # Runs once: on close(), or when this is forgotten, or before the interpreter ends.
        self._finish = weakref.finalize(self, grain_iterator.close)

    def __next__(self) -> Batch:
        """Returns the next batch; StopIteration after the last one and once closed."""
        if self._left == 0:
            self.close()
        if self._iterator is None:
            raise StopIteration
        self._left -= 1
        return {name: _own(rows) for name, rows in next(self._iterator).items()}

    def close(self) -> None:
        """Ends threads and worker processes and frees their shared memory; may be repeated."""
        self._iterator = None
        self._finish()

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _own(rows: np.ndarray) -> np.ndarray:
    """Copies what a worker process left in shared memory, so that it can be freed at once."""
    return rows if type(rows) is np.ndarray else np.array(rows)


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    rows: Sequence[int] | None = None,
    workers: int = 0,
    on_error: OnError = "stop",
    cache: bool = False,
    repeats: int = 1,
) -> BatchIterator:
    """Returns this process's part of the training batches, endlessly.

    Args:
      source: the examples.
      transform: from an encoded image to pixels.
      batch_size: examples in a batch over all processes.
      seed: of order and augmentation, 0 or more.
      start_batch: the number of the first batch: that of the last one seen before an interruption,
        plus one.
      rows: which of 0 to batch_size - 1 this process needs, in this order, see `own_rows`; None:
        all.
      workers: worker processes that load batches; 0: threads of this process do.
      on_error: what to do at an image that cannot be decoded. "stop": raise. "skip": the slot takes
        the next decodable example in order, with a warning in the log for each file.
      cache: keep examples in memory after the first reading: their decoded pixels where the
        transform starts from the whole picture, else (a crop decoded at reduced scale) their
        encoded bytes. The batches are the same either way. Every worker keeps its own.
      repeats: how many times an epoch shows each example that it shows, see the module; 3 in DeiT.

    Returns:
      A closable iterator of
        image: uint8 (rows, height, width, channels)
        what the transform marks, if it does: int32 (rows, ...)
        label: int32 (rows,)
        skipped: int32 (rows,), how many undecodable examples were passed over to fill the slot; the
          slots with skipped > 0 are those whose own example is bad.

    Raises:
      DecodeError: (from `next`) an image cannot be decoded, or with "skip", none can.
      LabelError: (from `next`) a label outside the classes.
      UserError: a number is out of range.
    """
    chosen = _rows(batch_size, rows)
    _check(source, workers, on_error)
    if not 0 <= seed < 2**64:
        raise UserError(f"seed is {seed}: expected 0 to 2**64 - 1")
    if start_batch < 0:
        raise UserError(f"start_batch is {start_batch}: expected 0 or more")
    if repeats < 1:
        raise UserError(f"repeats is {repeats}: expected 1 or more")
    loader = _Loader(source, transform, on_error, cache)
    load = _TrainBatch(loader, seed, batch_size, repeats, chosen)
    return _run(load, start_batch, FOREVER, workers)


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    rows: Sequence[int] | None = None,
    workers: int = 0,
    on_error: OnError = "stop",
) -> BatchIterator:
    """Returns this process's part of one pass over all examples, in the source's order.

    Every example is in exactly one row. Every process gets the same number of batches; rows beyond
    the last example are zeros with mask 0.

    Args:
      source: the examples.
      transform: from an encoded image to pixels.
      batch_size: examples in a batch over all processes.
      rows: which of 0 to batch_size - 1 this process needs, in this order, see `own_rows`; None:
        all.
      workers: worker processes that load batches; 0: threads of this process do.
      on_error: what to do at an image that cannot be decoded. "stop": raise. "skip": zeros with
        mask 0 and skipped 1, with a warning in the log.

    Returns:
      A closable iterator of what `train_batches` gives and
        mask: float32 (rows,), 1 for a row that counts.

    Raises:
      DecodeError, LabelError, UserError: as `train_batches`.
    """
    chosen = _rows(batch_size, rows)
    _check(source, workers, on_error)
    loader = _Loader(source, transform, on_error, cache=False)
    load = _EvalBatch(loader, batch_size, chosen)
    return _run(load, 0, -(-len(source) // batch_size), workers)


@functools.lru_cache(maxsize=2)  # batches in the making may lie in two epochs
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the permutation of range(length) in which an epoch goes through the examples."""
    bits = np.random.Philox(key=seed + (epoch << 64)).random_raw(length)
    order = np.argsort(bits, kind="stable")
    return order.astype(np.int32) if length < 2**31 else order


class _Randomness:
    """Random generators of examples; making a new one for each would cost more than its use."""

    def __init__(self):
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state  # of a generator that has not been used

    def of(
        self, seed: int, epoch: int, index: int, skipped: int = 0, copy: int = 0
    ) -> np.random.Generator:
        """Returns the generator of an example, valid until the next call."""
        self._state["state"]["key"][:] = (seed, epoch)
        self._state["state"]["counter"][:] = (0, copy, 1 + skipped, index)
        self._bits.state = self._state
        return self._generator


class _Loader:
    """Reads, caches and transforms single examples, and applies `on_error`."""

    def __init__(self, source: Source, transform: Transform, on_error: OnError, cache: bool):
        self.source = source
        self.transform = transform
        self.on_error = on_error
        self._kept: dict[int, dict[str, Any]] | None = {} if cache else None
        self._bad: set[int] = set()

    def empty(self, rows: int) -> Batch:
        """Returns a batch of zeros."""
        return {
            **self.transform.empty(rows),
            "label": np.zeros(rows, np.int32),
            "skipped": np.zeros(rows, np.int32),
        }

    def fill(self, batch: Batch, row: int, index: int, rng: np.random.Generator) -> bool:
        """Puts example `index` into a row. Returns False where it is to be skipped."""
        example = self._read(index)
        if not 0 <= example["label"] < self.source.num_classes:
            raise LabelError(
                f"{example['name']} has label {example['label']}: the data set has "
                f"{self.source.num_classes} classes, expected 0 to {self.source.num_classes - 1}"
            )
        try:
            made = self.transform.example(example["image"], rng, example["name"])
        except DecodeError as error:
            if self.on_error == "stop":
                cause = f'{error.cause}; data.on_error="skip" would pass it over'
                raise DecodeError(error.name, cause) from error
            self._note(index, error)
            return False
        for name, value in made.items():
            batch[name][row] = value
        batch["label"][row] = example["label"]
        return True

    def _read(self, index: int) -> dict[str, Any]:
        if self._kept is None:
            return self.source[index]
        example = self._kept.get(index)
        if example is None:
            example = self._kept[index] = self._decode_to_keep(self.source[index])
        return example

    def _decode_to_keep(self, example: dict[str, Any]) -> dict[str, Any]:
        encoded = isinstance(example["image"], bytes)
        if encoded and self.transform.starts_from_whole_picture:
            try:
                image = self.transform.decode(example["image"], example["name"])
            except DecodeError:  # kept as it is: `fill` meets the error, each time
                return example
            return {**example, "image": image}
        return example

    def _note(self, index: int, error: DecodeError) -> None:
        if index not in self._bad:
            self._bad.add(index)
            _log.warning("skipping: %s", error)


class _TrainBatch:
    """Batch number -> this process's rows."""

    def __init__(
        self,
        loader: _Loader,
        seed: int,
        batch_size: int,
        repeats: int,
        rows: np.ndarray,
    ):
        self._loader = loader
        self._seed = seed
        self._batch_size = batch_size
        self._repeats = repeats
        self._rows = rows

    def __call__(self, number: int) -> Batch:
        batch = self._loader.empty(len(self._rows))
        randomness = _Randomness()
        for row, position in enumerate(number * self._batch_size + self._rows):
            batch["skipped"][row] = self._fill(batch, row, int(position), randomness)
        return batch

    def _fill(self, batch: Batch, row: int, position: int, randomness: _Randomness) -> int:
        """Puts the first decodable example from `position` on into a row. Returns how many not."""
        length = len(self._loader.source)
        for skipped in range(length):
            epoch, place = divmod(position + skipped, length)
            number, copy = divmod(place, self._repeats)
            index = int(epoch_order(length, self._seed, epoch)[number])
            rng = randomness.of(self._seed, epoch, index, skipped, copy)
            if self._loader.fill(batch, row, index, rng):
                return skipped
        raise DecodeError("any example", f"{length} in a row cannot be decoded, see the log")


class _EvalBatch:
    """Batch number -> this process's rows, with a mask."""

    def __init__(self, loader: _Loader, batch_size: int, rows: np.ndarray):
        self._loader = loader
        self._batch_size = batch_size
        self._rows = rows

    def __call__(self, number: int) -> Batch:
        batch = self._loader.empty(len(self._rows))
        batch["mask"] = np.zeros(len(self._rows), np.float32)
        randomness = _Randomness()
        for row, index in enumerate(map(int, number * self._batch_size + self._rows)):
            if index >= len(self._loader.source):
                continue
            rng = randomness.of(seed=0, epoch=0, index=index)
            filled = self._loader.fill(batch, row, index, rng)
            batch["mask"][row] = filled
            batch["skipped"][row] = not filled
        return batch


def _run(load: _TrainBatch | _EvalBatch, start: int, count: int, workers: int) -> BatchIterator:
    """Lets Grain compute `count` batches from number `start` on, in order.

    Its range does not end there: worker processes that have come to the end of theirs leave their
    last batches in shared memory (Grain 0.2.18). A few batches beyond the end are computed in vain;
    for evaluation they are empty.
    """
    import grain

    threads = 1 if workers else min(MAX_THREADS, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = grain.MapDataset.range(start, FOREVER).map(load).to_iter_dataset(options)
    if workers:
        _mark_flags_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
            worker_init_fn=_start_worker,
        )
    return BatchIterator(iter(dataset), count)


def _start_worker(index: int, count: int) -> None:
    """Runs first in a worker process: it ends with its parent, killed or not, and not before.

    Interrupts reach a whole group of processes; what becomes of the run is the parent's decision.
    """
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _mark_flags_as_parsed() -> None:
    """Grain's worker processes read absl flags, which only absl's `app.run` parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _rows(batch_size: int, rows: Sequence[int] | None) -> np.ndarray:
    """The rows that are read, int64."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: expected 1 or more")
    chosen = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= batch_size:
        raise UserError(f"rows are {rows}: expected one or more of 0 to {batch_size - 1}")
    return chosen


def _check(source: Source, workers: int, on_error: str) -> None:
    if workers < 0:
        raise UserError(f"workers is {workers}: expected 0 or more")
    if on_error not in ("stop", "skip"):
        raise UserError(f"on_error is {on_error!r}: expected 'stop' or 'skip'")
    if not len(source):
        raise UserError("the source has no examples")
