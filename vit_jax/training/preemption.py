"""SIGTERM and SIGINT as a wish to stop after the current step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding


class Preemption:
    """While it is entered, SIGTERM and SIGINT do not end the process but are remembered.

    A second signal acts as it would have without.

    Several processes have to stop after the same step, whichever of them was told. So each sends
    its wish along with the batch, the step reduces the wishes to one number, and all of them read
    the same answer from the metrics of the same step. (JAX's preemption service would do it too,
    but Orbax asks it from a background thread about earlier steps, and then the processes may come
    to different answers.)
    """

    def __init__(self):
        self._told = False
        self._previous: dict[int, Any] = {}
        self._wishes: dict[bool, jax.Array] = {}

    def __enter__(self) -> "Preemption":
        # Python delivers signals to the main thread; a caller elsewhere has to see to them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._told = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def wish(self, batch_sharding: NamedSharding, shards: int) -> jax.Array:
        """Returns what goes into the batch as "stop": int32 (shards,), 1 from who was told."""
        if self._told not in self._wishes:
            rows = np.full(shards // jax.process_count(), self._told, np.int32)
            array = jax.make_array_from_process_local_data(batch_sharding, rows)
            self._wishes[self._told] = array
        return self._wishes[self._told]

    def decided(self, seen: bool) -> bool:
        """Returns whether to stop now.

        Args:
          seen: whether the metrics looked at so far tell of a wish. A process that is alone need
            not wait for them.
        """
        return seen if jax.process_count() > 1 else self._told

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
