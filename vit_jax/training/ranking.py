"""Which checkpoints have the best metric."""

import math
from collections.abc import Iterable, Mapping

from vit_jax import naming
from vit_jax.errors import UserError


class Ranking:
    """Metrics of checkpoints by step, and the order they put the steps in."""

    def __init__(self, metric: str, mode: str, keep: int):
        """Starts without any step.

        Args:
          metric: name of the metric to rank by.
          mode: "max" or "min": what is better.
          keep: how many steps count as the best.

        Raises:
          UserError: another mode.
        """
        if mode not in ("max", "min"):
            raise UserError(f"checkpoint.best_mode is {mode!r}; expected 'max' or 'min'")
        self._metric, self._keep = metric, keep
        self._sign = -1.0 if mode == "max" else 1.0
        self._cost: dict[int, float] = {}  # by step; less is better

    def add(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Enters a step, if it has the metric as a finite number."""
        value = math.nan if metrics is None else metrics.get(self._metric, math.nan)
        if math.isfinite(value):
            self._cost[step] = self._sign * value

    def remove(self, step: int) -> None:
        """Takes a step out."""
        self._cost.pop(step, None)

    def best(self, steps: Iterable[int]) -> list[int]:
        """Returns the best of `steps`, the best one first, the earlier of equals first."""
        known = sorted(step for step in steps if step in self._cost)
        return sorted(known, key=self._cost.__getitem__)[: self._keep]

    def would_take(self, metrics: Mapping[str, float]) -> bool:
        """Returns whether a new step with these metrics would be among the best.

        Raises:
          UserError: the metric to rank by is not among them.
        """
        if not self._keep:
            return False
        naming.check_known("metric in checkpoint.best_metric", [self._metric], metrics)
        cost = self._sign * metrics[self._metric]
        best = self.best(self._cost)
        return math.isfinite(cost) and (len(best) < self._keep or cost < self._cost[best[-1]])
