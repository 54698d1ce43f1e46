"""Watches the metrics of training steps: stops at NaN, measures the speed, writes the log."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.objectives.base import Metrics
from vit_jax.training import hardware
from vit_jax.training.metrics import MetricWriter, ProgressBar
from vit_jax.training.stopwatch import Stopwatch

# Where one of these is not finite, parameters or moments are not, or will not be a step later.
MUST_BE_FINITE = ("loss", "gradient_norm", "parameter_norm")


class NonFiniteError(UserError, RuntimeError):
    """The loss, or what follows from it, became NaN or infinite."""


class Monitor:
    """Takes the metrics of every step and looks at them when the next step has been started.

    So the devices always have work to do while the host waits for a number. After `flush` the
    metrics of all steps so far were looked at.

    Attributes:
      skipped: examples of the current epoch that could not be decoded.
      stop: whether a process said, by the latest step looked at, that it was told to stop.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        stopwatch: Stopwatch,
        writer: MetricWriter,
        bar: ProgressBar,
        train_examples: int,
        flops_per_image: float,
        skipped: int = 0,
    ):
        """Binds the monitor to where numbers go.

        Args:
          config: resolved.
          stopwatch: of the loop; started here, after the first step.
          writer: of `metrics.jsonl`.
          bar: shows the progress.
          train_examples: length of an epoch.
          flops_per_image: of training, see `Objective.training_flops`.
          skipped: examples of the current epoch that an earlier process skipped.
        """
        self._config, self._writer, self._bar = config, writer, bar
        self._stopwatch = stopwatch
        self._train_examples, self._flops_per_image = train_examples, flops_per_image
        self.skipped, self.stop = skipped, False
        self._waiting: tuple[int, Metrics] | None = None
        self._first = True  # no step has been looked at

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of `step` and looks at those of the step before.

        Raises:
          NonFiniteError: they are not finite.
        """
        self.flush()
        self._waiting = (step, metrics)

    def flush(self) -> None:
        """Looks at what has not been looked at.

        Raises:
          NonFiniteError: it is not finite.
        """
        if self._waiting is not None:
            step, metrics = self._waiting
            self._waiting = None
            self._look(step, {name: x.item() for name, x in jax.device_get(metrics).items()})

    def _look(self, step: int, values: dict[str, Any]) -> None:
        for name in MUST_BE_FINITE:
            if not math.isfinite(values[name]):
                raise NonFiniteError(f"{name} is {values[name]} at step {step}")
        self.stop = values.pop("stop") > 0
        self._count_skipped(step, values)
        times = self._stopwatch.read(step)
        speed = self._speed(times)
        self._bar.update(step, values["loss"], speed.get("images_per_second", 0.0))
        due = step % self._config.log_every_steps == 0 or step == self._config.total_steps
        if due:
            self._writer.write(step, "train", {**values, **speed, **times})
        if due or self._first:  # the first step is not like the others: it is not counted
            self._stopwatch.start(step)
            self._first = False

    def _speed(self, times: Mapping[str, float]) -> Mapping[str, float]:
        """Images a second of the steps, and the share of the chips' peak where that is known."""
        if not times:
            return {}
        images_per_second = self._config.data.batch_size / times["step_seconds"]
        mfu = hardware.mfu(self._flops_per_image * images_per_second, jax.devices())
        speed = {"images_per_second": images_per_second}
        return speed if mfu is None else {**speed, "mfu": mfu}

    def _count_skipped(self, step: int, values: dict[str, Any]) -> None:
        """Replaces the step's count in `values` by that of the epoch; reports it at its end."""
        self.skipped += int(values.pop("skipped"))
        if self._config.data.on_error != "skip":
            return
        values["skipped"] = self.skipped
        images = step * self._config.data.batch_size
        epoch = images // self._train_examples
        if (images - self._config.data.batch_size) // self._train_examples < epoch:
            self._bar.write(
                f"epoch {epoch}: {self.skipped} of {self._train_examples:,} images could not be "
                "decoded and were skipped"
            )
            self.skipped = 0
