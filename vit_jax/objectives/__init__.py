"""What is learned: an objective turns (parameters, batch, rng) into (loss, metrics).

`vit_jax.objectives.base` is the page to read before writing one.
"""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from vit_jax import naming, ranges
from vit_jax.objectives.base import EvaluationContext, Objective
from vit_jax.objectives.classification import Classification, build_classification
from vit_jax.objectives.linear_probe import LinearProbe, build_linear_probe
from vit_jax.objectives.mae import MaskedAutoencoding, build_mae

__all__ = [
    "OBJECTIVES",
    "Classification",
    "EvaluationContext",
    "LinearProbe",
    "MaskedAutoencoding",
    "Objective",
    "build_objective",
    "objective_defaults",
    "option_ranges",
]

# Name in config.objective.name -> builder(module, *, options with their defaults).
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "classification": build_classification,
    "linear_probe": build_linear_probe,
    "mae": build_mae,
}


def objective_defaults(name: str) -> dict[str, Any]:
    """Returns the options that an objective takes, with their defaults.

    Raises:
      UserError: no objective of that name; the nearest ones are named.
    """
    return {option.name: option.default for option in _options(name)}


def option_ranges(name: str) -> dict[str, ranges.Range]:
    """Returns what the options of an objective may be, as far as their annotations say.

    Raises:
      UserError: no objective of that name; the nearest ones are named.
    """
    return {option.name: ranges.of_type(option.annotation) for option in _options(name)}


def _options(name: str) -> list[inspect.Parameter]:
    naming.check_known("objective", [name], OBJECTIVES)
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def build_objective(config: Any, module: nn.Module) -> Objective:
    """Builds the objective that `config.objective` describes.

    Args:
      config: has `objective`, a mapping with "name" and the objective's own options.
      module: the model to train.

    Raises:
      UserError: unknown name or option (the nearest ones are named), or a value of a wrong type.
    """
    options = dict(config.objective)
    name = options.pop("name")
    allowed = option_ranges(name)
    naming.check_known(f"option of objective {name!r}", options, allowed)
    ranges.check(options, allowed, "objective.")
    return OBJECTIVES[name](module, **options)
