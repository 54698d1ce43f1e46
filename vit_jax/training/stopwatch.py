"""Where the time of a run goes: waiting for data, computing, evaluating, saving."""

import contextlib
import time
from collections.abc import Iterator

PARTS = ("input", "evaluation", "checkpoint")


class Stopwatch:
    """Adds up what the host waits for; what is left of the time between two looks is the steps'.

    The devices work while the host waits for data: as long as "input" is small, they are not idle
    for want of it.
    """

    def __init__(self) -> None:
        """Starts now."""
        self.restart()

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is within counts as `part`, one of `PARTS`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - start

    def read(self, steps: int) -> dict[str, float]:
        """Returns where the time since the latest call went, and starts anew.

        Args:
          steps: that were made since.

        Returns:
          "step_seconds" and "input_seconds" of one step, the latter as a part of the former;
          "evaluation_seconds" and "checkpoint_seconds" of all that were made, where there were any.
        """
        total = time.perf_counter() - self._start
        once = {name: self._seconds[name] for name in ("evaluation", "checkpoint")}
        found = {
            "step_seconds": (total - sum(once.values())) / steps,
            "input_seconds": self._seconds["input"] / steps,
            **{f"{name}_seconds": seconds for name, seconds in once.items() if seconds},
        }
        self.restart()
        return found

    def restart(self) -> None:
        """Forgets what was."""
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(PARTS, 0.0)
