"""Where numbers go: `metrics.jsonl`, TensorBoard and the progress bar.

`metrics.jsonl` has one JSON object a line, `{"step": 100, "split": "train", "loss": 0.7, ...}`.
JSON has no NaN and no infinity: they are written as the strings "NaN", "Infinity" and "-Infinity",
which Python's `float` reads; `read_metrics` does so.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import storage
from vit_jax.errors import UserError
from vit_jax.training.events import EventWriter

FILE_NAME = "metrics.jsonl"
_RESERVED = ("step", "split")


class MetricWriter:
    """Writes metrics to `metrics.jsonl` and to TensorBoard event files.

    Only process 0 of a run on several hosts writes. Each write reaches the operating system before
    it returns, so what is killed is the process and not the metrics; in an object store they are
    safe from the next `sync` on. Resuming drops the lines of steps that will be run again, so a
    file has every step once.
    """

    def __init__(self, workdir: str | os.PathLike[str], resume_step: int | None = None):
        """Opens the files.

        Args:
          workdir: folder of the run; made where it is missing.
          resume_step: step of the checkpoint the run continues from: later lines are dropped. None:
            the run starts anew, and lines of an earlier attempt are dropped.

        Raises:
          UserError: the file that is there is not one of ours.
        """
        self._file = self._events = None
        if jax.process_index() != 0:
            return
        workdir = storage.path(workdir)
        storage.make_folder(workdir)
        first_step = 0 if resume_step is None else resume_step + 1
        _drop_from(workdir / FILE_NAME, first_step)
        self._file = storage.open_log(workdir / FILE_NAME)
        self._events = EventWriter(workdir / "tensorboard", first_step)

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Writes the metrics of one step.

        Args:
          step: number of updates made.
          split: what was measured, such as "train" or "test"; TensorBoard shows `split/name`.
          values: scalars by plain name: Python, NumPy or JAX numbers. "step" and "split" are taken.

        Raises:
          UserError: a value that is not one number, or a name that is taken.
        """
        if self._file is None:
            return
        numbers = {name: _number(name, value) for name, value in values.items()}
        self._file.write(_line({"step": int(step), "split": split, **numbers}).encode())
        self._file.flush()
        self._events.scalars(int(step), {f"{split}/{k}": v for k, v in numbers.items()})

    def write_pictures(self, step: int, split: str, values: Mapping[str, np.ndarray]) -> None:
        """Writes pictures of one step, for TensorBoard alone.

        Args:
          step: number of updates made.
          split: of what; TensorBoard shows `split/name`.
          values: by plain name, `(height, width, 1 or 3)`, uint8.

        Raises:
          UserError: a value that is no such picture.
        """
        if self._events is None or not values:
            return
        for name, pixels in values.items():
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
                raise UserError(
                    f"picture {name!r} has shape {pixels.shape} and dtype {pixels.dtype}; expected "
                    "(height, width, 1 or 3) and uint8"
                )
        self._events.pictures(int(step), {f"{split}/{k}": v for k, v in values.items()})

    def sync(self) -> None:
        """Has everything written where it survives the process."""
        for file in (self._file, self._events):
            if file is not None:
                file.sync()

    def close(self) -> None:
        """Closes the files; closing twice is allowed."""
        for file in (self._file, self._events):
            if file is not None:
                file.close()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl`, an empty list where there is none.

    A last line that a kill cut short is left out; NaN and infinities are floats again.

    Raises:
      UserError: a line that is not one of ours, with its number.
    """
    path = storage.path(workdir) / FILE_NAME
    if not path.exists():
        return []
    complete, newline, _ = storage.read_bytes(path).rpartition(b"\n")
    lines = complete.split(b"\n") if newline else []
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        return {
            "step": int(entry["step"]),
            "split": str(entry["split"]),
            **{name: _from_json(value) for name, value in entry.items() if name not in _RESERVED},
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"line {number} of {path} is not a line of metrics: {line[:80]!r}; "
            "repair the file or move it away"
        ) from error


def _drop_from(path: Path, first_step: int) -> None:
    """Rewrites the file without the lines of `first_step` and later ones.

    The new file takes the place of the old one in one step, so a kill leaves one of the two.
    """
    if not path.exists():
        return
    if storage.is_remote(path):
        storage.replace_text(path, "".join(_kept(path, first_step)))
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(_kept(path, first_step))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _kept(path: Path, first_step: int) -> list[str]:
    return [_line(x) for x in read_metrics(path.parent) if x["step"] < first_step]


def _line(entry: Mapping[str, Any]) -> str:
    """The text of one entry; floats that JSON does not have are replaced by their names."""
    return json.dumps({k: _to_json(v) for k, v in entry.items()}, allow_nan=False) + "\n"


def _number(name: str, value: Any) -> int | float:
    """The Python number of a scalar."""
    if name in _RESERVED:
        raise UserError(f"a metric may not be called {name!r}: the line has a field of that name")
    array = np.asarray(value)
    if array.size != 1 or not (
        np.issubdtype(array.dtype, np.number) or jax.dtypes.issubdtype(array.dtype, np.floating)
    ):
        raise UserError(
            f"metric {name!r} has shape {array.shape} and dtype {array.dtype}; expected one number"
        )
    is_integer = np.issubdtype(array.dtype, np.integer)
    return int(array.reshape(())) if is_integer else float(array.reshape(()))


def _to_json(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_json(value: Any) -> int | float:
    return float(value) if isinstance(value, str) else value


class ProgressBar:
    """Steps done, loss, images/s and time left on the terminal; silent where there is none.

    Only process 0 shows it. Use `write` for lines of text while it is there.
    """

    def __init__(self, total_steps: int, initial: int = 0):
        """Shows the bar, if standard error is a terminal.

        Args:
          total_steps: length of the run.
          initial: steps done before a resume; they do not count for the speed.
        """
        from tqdm import tqdm

        self._bar = tqdm(
            total=total_steps,
            initial=initial,
            disable=jax.process_index() != 0 or not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}{postfix}, "
            "{remaining} left",
        )
        self._step = initial

    def update(self, step: int, loss: float, images_per_second: float) -> None:
        """Shows where the run is.

        Args:
          step: number of updates made, of the whole run.
          loss: of the latest step.
          images_per_second: over all devices.
        """
        if self._bar.disable:
            return
        text = f"loss {float(loss):.4f}, {images_per_second:,.0f} images/s"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._step)
        self._step = step

    def write(self, text: str) -> None:
        """Prints lines to standard output without breaking the bar, on process 0."""
        if jax.process_index() == 0:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar as it stands; closing twice is allowed."""
        self._bar.close()
