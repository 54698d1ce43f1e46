"""Batches on their way to the devices, ahead of the step that uses them."""

import queue
import threading
import weakref
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Sharding

from vit_jax.errors import UserError

_END = object()


def own_rows(sharding: Sharding, count: int) -> np.ndarray:
    """Returns which of `count` rows lie on the devices of this process, in order.

    They need not be neighbours, nor this process's alone. The hosts of a TPU slice are blocks of
    its grid, and a mesh axis is a line or a plane of it: on 4 x 4 chips, four to a host, each row
    of data=4, tensor=4 lies on two hosts.
    """
    held = np.zeros(count, bool)
    for (rows,) in sharding.addressable_devices_indices_map((count,)).values():
        held[rows] = True
    return np.flatnonzero(held)


def to_devices(sharding: Sharding, own: np.ndarray) -> jax.Array:
    """Returns the array of all processes, of which `own` has this one's rows, see `own_rows`."""
    devices = len(sharding.device_set)
    count = len(own) * devices // len(own_rows(sharding, devices))
    rows = own_rows(sharding, count)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(count)
        first = np.searchsorted(rows, start)
        return own[first : first + stop - start]

    return jax.make_array_from_callback((count, *own.shape[1:]), sharding, part)


class DeviceIterator(Iterator[dict[str, jax.Array]]):
    """Iterates over batches of global arrays; made by `prefetch_to_device`.

    `close()`, or leaving a `with`, ends the thread and closes the iterator it reads from.
    """

    def __init__(self, iterator: Iterator[dict[str, np.ndarray]], sharding: Sharding, size: int):
        self._source = iterator
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._stop = threading.Event()
        self._finished = False
        self._thread = threading.Thread(
            target=_fill,
            args=(iterator, sharding, self._queue, self._stop),
            name="prefetch-to-device",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(self, self._stop.set)  # where nobody calls close()

    def __next__(self) -> dict[str, jax.Array]:
        """Returns the next batch; raises what the iterator raised, at its place in the order."""
        if self._finished:
            raise StopIteration
        item = self._queue.get()
        if item is _END or isinstance(item, BaseException):
            self.close()
            raise StopIteration if item is _END else item
        return item

    def close(self) -> None:
        """Ends the thread and closes the iterator it reads from; may be repeated."""
        if self._finished:
            return
        self._finished = True
        self._stop.set()
        self._thread.join()
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> "DeviceIterator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def prefetch_to_device(
    iterator: Iterator[dict[str, np.ndarray]], sharding: Sharding, size: int = 2
) -> DeviceIterator:
    """Moves batches to the devices in a background thread.

    Args:
      iterator: batches of this process's rows, `own_rows`, as `train_batches` gives them.
      sharding: of every array: rows over devices, such as NamedSharding(mesh, P("data")).
      size: how many batches may wait on the devices.

    Returns:
      A closable iterator of the same dicts with global `jax.Array`s: their rows are those of all
      processes, in their order in the batch.

    Raises:
      UserError: `size` is less than 1.
    """
    if size < 1:
        raise UserError(f"size is {size}: expected at least 1 batch")
    return DeviceIterator(iterator, sharding, size)


def _fill(
    iterator: Iterator[dict[str, np.ndarray]],
    sharding: Sharding,
    waiting: queue.Queue,
    stop: threading.Event,
) -> None:
    """The thread: puts batches, then `_END` or the exception that ended them."""
    try:
        for batch in iterator:
            arrays = {name: to_devices(sharding, rows) for name, rows in batch.items()}
            if not _put(waiting, arrays, stop):
                return
        last = _END
    except BaseException as error:  # handed over to the consumer, whatever it is
        last = error
    _put(waiting, last, stop)


def _put(waiting: queue.Queue, item: object, stop: threading.Event) -> bool:
    """Puts an item as soon as there is room. Returns False where `stop` was set first."""
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
