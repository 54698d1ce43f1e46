"""SIGTERM and SIGINT as a wish to stop after the current step."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """While it is entered, SIGTERM and SIGINT do not end the process but set a flag.

    A second signal acts as it would have without. With several processes JAX's preemption service
    listens for SIGTERM and makes all of them agree on the step after which to stop, whichever of
    them was told.
    """

    def __init__(self):
        self._requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python delivers signals to the main thread, which is the caller's affair
        if jax.process_count() > 1:
            self._handle(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        else:
            self._handle(signal.SIGINT, self._set)
            self._handle(signal.SIGTERM, self._set)
        return self

    def _handle(self, number: int, handler: Callable[..., None]) -> None:
        self._previous[number] = signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True
        self._restore()

    def requested(self, step: int) -> bool:
        """Returns whether to stop after `step`; all processes have to ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
