"""Requests that come at once are computed together.

One thread computes. While it does, others wait, and it then takes as many of them as make a batch:
nobody waits for a batch to become full.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


class Batches:
    """Calls a function of lists, from a thread of its own.

    Attributes:
        seconds: that the latest batch took.
    """

    def __init__(self, function: Callable[[Sequence[Any]], Sequence[Any]], most: int):
        """Starts the thread.

        Args:
            function: of at most `most` items, gives one result for each.
            most: items of a batch.
        """
        self._function, self._most = function, most
        self._waiting: queue.SimpleQueue[tuple[Any, Future] | None] = queue.SimpleQueue()
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(self, item: Any) -> Future:
        """Puts an item at the end of the queue; the future has its result, or what went wrong."""
        done: Future = Future()
        self._waiting.put((item, done))
        return done

    def close(self) -> None:
        """Ends the thread when all that wait have been computed."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        first = self._waiting.get()
        while first is not None:
            taken, end = [first], False
            while len(taken) < self._most and not end and not self._waiting.empty():
                following = self._waiting.get()
                end = following is None
                taken += [] if following is None else [following]
            self._compute([entry for entry in taken if entry[1].set_running_or_notify_cancel()])
            first = None if end else self._waiting.get()

    def _compute(self, taken: Sequence[tuple[Any, Future]]) -> None:
        if not taken:  # all have gone away
            return
        start = time.perf_counter()
        try:
            results = self._function([item for item, _ in taken])
        except Exception as error:  # whoever waits is told, and the next batch may be better
            for _, done in taken:
                done.set_exception(error)
        else:
            for (_, done), result in zip(taken, results, strict=True):
                done.set_result(result)
        self.seconds = time.perf_counter() - start
