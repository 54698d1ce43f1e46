"""A trace of some steps, as TensorBoard's profile page and XProf open it: `config.profile`."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from vit_jax import ranges, storage

FOLDER = "tensorboard"  # of the run; the traces lie in its plugins/profile

STEPS = ranges.or_none(
    ranges.Range(
        "None or (first step, last step), whole numbers, 1 or more, in this order",
        lambda x: (
            isinstance(x, tuple | list)
            and len(x) == 2
            and all(ranges.whole(1).fits(step) for step in x)
            and x[0] <= x[1]
        ),
    )
)


class Trace:
    """Records what host and devices do from one step to another.

    Each process writes the trace of its own devices.
    """

    def __init__(
        self,
        steps: tuple[int, int] | None,
        workdir: Path,
        say: Callable[[str], None],
        made: int = 0,
    ) -> None:
        """Takes what to record; nothing is recorded yet.

        Args:
          steps: the first and the last, counted from 1; None: none.
          workdir: of the run, also in an object store.
          say: is given a sentence for the user when the trace is written, or at once where all of
            `steps` were made before.
          made: number of steps that were made before.
        """
        if steps is not None and steps[1] <= made:
            say(
                f"config.profile={tuple(steps)}: the run goes on after step {made}, so nothing is "
                "recorded now; for a trace give it later steps"
            )
        self._steps, self._folder, self._say = steps, workdir / FOLDER, say
        self._local: Path | None = None
        self._recorded = (0, 0)

    @contextlib.contextmanager
    def step(self, number: int, result: Callable[[], Any]) -> Iterator[None]:
        """What is within makes step `number`; the trace begins before it or ends after it.

        Args:
          number: of the step, counted from 1.
          result: gives what the step computes, which the trace has to wait for.
        """
        if self._steps is None:
            yield
            return
        first, last = self._steps
        if self._local is None and first <= number <= last:
            self._start()
            self._recorded = (number, number)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._recorded = (self._recorded[0], number)
        if self._local is not None and number >= last:
            jax.block_until_ready(result())
            self.close()

    def _start(self) -> None:
        remote = storage.is_remote(self._folder)
        self._local = Path(tempfile.mkdtemp()) if remote else self._folder
        jax.profiler.start_trace(self._local)

    def close(self) -> None:
        """Writes what was recorded so far; closing twice is allowed."""
        if self._local is None:
            return
        jax.profiler.stop_trace()
        if self._local != self._folder:
            _move(self._local, self._folder)
        self._local = None
        first, last = self._recorded  # a run may begin or end within those asked for
        self._say(f"trace of steps {first} to {last}: {self._folder}")


def _move(local: Path, folder: Path) -> None:
    for file in local.rglob("*"):
        if file.is_file():
            (folder / file.relative_to(local)).write_bytes(file.read_bytes())
    shutil.rmtree(local)
