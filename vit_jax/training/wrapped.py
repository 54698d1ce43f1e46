"""An objective around another one, which it gives other parameters than those that are trained."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vit_jax.objectives.base import (
    Batch,
    EvaluationContext,
    Extra,
    Metrics,
    Objective,
    Params,
)


@dataclasses.dataclass(frozen=True)
class Wrapped(Objective):
    """Learns what `inner` learns. Subclasses write `open`, `close` and the rest at need.

    Attributes:
      inner: what is learned.
    """

    inner: Objective

    def open(self, params: Params, extra: Extra) -> tuple[Params, Extra]:
        """Returns `params` and `extra` of `inner`.

        Args:
          params: the trained tree.
          extra: the carried tree.
        """
        return params, extra

    def close(self, extra: Extra, inner: Extra) -> Extra:
        """Returns the carried tree after a step.

        Args:
          extra: the carried tree before it.
          inner: what `inner` returned of it.
        """
        del extra
        return inner

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Within it `inner` is called."""
        yield

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns what `inner` returns."""
        opened = self.open(params, extra)
        with self.around():
            loss, (metrics, after) = self.inner.loss(*opened, batch, rng, step)
        return loss, (metrics, self.close(extra, after))

    def training_flops(self, trained: float) -> float:
        """Returns what `inner` returns."""
        return self.inner.training_flops(trained)

    def all_params(self, params: Params, extra: Extra) -> Params:
        """Returns the parameters of `inner`, as `module_params` takes them."""
        return self.inner.all_params(*self.open(params, extra))

    def module_params(self, params: Params) -> Params:
        """Returns what `inner` returns for the result of `all_params`."""
        return self.inner.module_params(params)

    def exported_params(self, params: Params, extra: Extra) -> Params:
        """Returns what `inner` returns."""
        return self.inner.exported_params(*self.open(params, extra))

    def after_update(self, params: Params, extra: Extra, step: jax.Array) -> Extra:
        """Returns `extra` after `inner` has seen its parameters as they are now."""
        whole, inner = self.open(params, extra)
        return self.close(extra, self.inner.after_update(whole, inner, step))

    def evaluate(self, params: Params, extra: Extra, batch: Batch) -> Metrics:
        """Returns what `inner` returns."""
        opened = self.open(params, extra)
        with self.around():
            return self.inner.evaluate(*opened, batch)

    def evaluation(self, context: EvaluationContext) -> dict[str, float]:
        """Returns what `inner` returns."""
        return self.inner.evaluation(_Context(self, context))

    def pictures(self, context: EvaluationContext) -> dict[str, Any]:
        """Returns what `inner` returns."""
        return self.inner.pictures(_Context(self, context))

    def describe(self, results: dict[str, float]) -> str:
        """Returns what `inner` returns."""
        return self.inner.describe(results)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A function of the inner objective's parameters, as one of the wrapped ones.

    Equal for equal functions, so that it is compiled once.
    """

    objective: Wrapped
    function: Callable[[Params, Extra, Batch], Any]

    def __call__(self, params: Params, extra: Extra, batch: Batch) -> Any:
        opened = self.objective.open(params, extra)
        with self.objective.around():
            return self.function(*opened, batch)


class _Context:
    """The context of an evaluation as the inner objective sees it."""

    def __init__(self, objective: Wrapped, context: EvaluationContext):
        self._objective, self._context = objective, context
        self.params, self.extra = objective.open(context.params, context.extra)
        self.mean, self.std = context.mean, context.std

    def masked_means(
        self, per_example: Callable[[Params, Extra, Batch], Metrics]
    ) -> dict[str, float]:
        return self._context.masked_means(_Opened(self._objective, per_example))

    def on_first_batch(self, function: Callable[[Params, Extra, Batch], Any]) -> Any:
        return self._context.on_first_batch(_Opened(self._objective, function))
