"""SIGTERM and SIGINT as a wish to stop. It imports nothing slow, so it can begin early."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While it is entered, SIGTERM and SIGINT do not end the process but are remembered.

    A second signal acts as it would have without.

    Attributes:
      told: whether a signal came.
    """

    def __init__(self):
        self.told = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python delivers signals to the main thread; a caller elsewhere has to see to them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.told = True
        self._restore()

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
