"""What is learned: an objective turns (parameters, batch, rng) into (loss, metrics).

`vit_jax.objectives.base` is the page to read before writing one.
"""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from vit_jax import naming
from vit_jax.objectives.base import EvaluationContext, Objective
from vit_jax.objectives.classification import Classification, build_classification

__all__ = [
    "OBJECTIVES",
    "Classification",
    "EvaluationContext",
    "Objective",
    "build_objective",
    "objective_defaults",
]

# Name in config.objective.name -> builder(module, *, options with their defaults).
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "classification": build_classification,
}


def objective_defaults(name: str) -> dict[str, Any]:
    """Returns the options that an objective takes, with their defaults.

    Raises:
      ValueError: no objective of that name; the nearest ones are named.
    """
    naming.check_known("objective", [name], OBJECTIVES)
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build_objective(config: Any, module: nn.Module) -> Objective:
    """Builds the objective that `config.objective` describes.

    Args:
      config: has `objective`, a mapping with "name" and the objective's own options.
      module: the model to train.

    Raises:
      ValueError: unknown name or option; the nearest ones are named.
    """
    options = dict(config.objective)
    name = options.pop("name")
    naming.check_known(f"option of objective {name!r}", options, objective_defaults(name))
    return OBJECTIVES[name](module, **options)
