"""What is learned: an objective turns (parameters, batch, rng) into (loss, metrics).

`vit_jax.objectives.base` is the page to read before writing one.
"""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from vit_jax import naming, ranges
from vit_jax.errors import UserError
from vit_jax.objectives.base import EvaluationContext, Objective, Surroundings
from vit_jax.objectives.classification import Classification, build_classification
from vit_jax.objectives.distillation import Distillation, build_distillation
from vit_jax.objectives.linear_probe import LinearProbe, build_linear_probe
from vit_jax.objectives.mae import MaskedAutoencoding, build_mae

__all__ = [
    "OBJECTIVES",
    "Classification",
    "Distillation",
    "EvaluationContext",
    "LinearProbe",
    "MaskedAutoencoding",
    "Objective",
    "Surroundings",
    "build_objective",
    "objective_defaults",
    "option_ranges",
]

# Name in config.objective.name -> builder(module, *, options with their defaults). A builder may
# ask for more: for `surroundings`, and with `**NAME` for the options of the objective NAME.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "classification": build_classification,
    "distillation": build_distillation,
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
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return own + [o for p in parameters if p.kind is p.VAR_KEYWORD for o in _options(p.name)]


def build_objective(
    config: Any, module: nn.Module, surroundings: Surroundings | None = None
) -> Objective:
    """Builds the objective that `config.objective` describes.

    Args:
      config: has `objective`, a mapping with "name" and the objective's own options.
      module: the model to train.
      surroundings: of the run; some objectives need to know them.

    Raises:
      UserError: unknown name or option (the nearest ones are named), or a value of a wrong type;
        or the objective needs surroundings that are not given.
    """
    options = dict(config.objective)
    name = options.pop("name")
    allowed = option_ranges(name)
    naming.check_known(f"option of objective {name!r}", options, allowed)
    ranges.check(options, allowed, "objective.")
    if "surroundings" not in inspect.signature(OBJECTIVES[name]).parameters:
        return OBJECTIVES[name](module, **options)
    if surroundings is None:
        raise UserError(f"objective {name!r} needs the surroundings of its run, see Surroundings")
    return OBJECTIVES[name](module, surroundings, **options)
