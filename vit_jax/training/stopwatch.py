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
        """Stands still until the first `start`."""
        self._step: int | None = None
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is within counts as `part`, one of `PARTS`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - start

    def start(self, step: int) -> None:
        """Forgets what was, and counts from the end of `step`."""
        self._step, self._start = step, time.perf_counter()
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def read(self, step: int) -> dict[str, float]:
        """Returns where the time since the start went.

        Args:
          step: has just ended.

        Returns:
          "step_seconds" and "input_seconds" of one step, the latter as a part of the former;
          "evaluation_seconds" and "checkpoint_seconds" of all that were made, where there were
          any. Nothing where no step has ended since the start.
        """
        if self._step is None or step == self._step:
            return {}
        steps, total = step - self._step, time.perf_counter() - self._start
        once = {name: self._seconds[name] for name in ("evaluation", "checkpoint")}
        return {
            "step_seconds": (total - sum(once.values())) / steps,
            "input_seconds": self._seconds["input"] / steps,
            **{f"{name}_seconds": seconds for name, seconds in once.items() if seconds},
        }
