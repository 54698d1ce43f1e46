"""What the configuration says of single parameters: their learning rates and weight decays.

A scanned stack of blocks is one array; what is said of its layers is an array of one number for
each, along the leading axis. So every number here is an array that broadcasts with its parameter.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax import naming
from vit_jax.models.layer_ids import layer_id, num_blocks
from vit_jax.models.partitioning import PlainModule
from vit_jax.training.param_rules import Rule, layer_names

Pairs = Sequence[tuple[str, float]]


def check_patterns(what: str, patterns: Sequence[str], rules: Any) -> None:
    """Raises UserError for a pattern that fits no parameter; names the nearest ones.

    Args:
      what: the key of the configuration.
      patterns: of names as `param_rules.layer_names` gives them.
      rules: the tree of `param_rules.rules`.
    """
    names = [name for rule in jax.tree.leaves(rules) for name in layer_names(rule)]
    for pattern in patterns:
        naming.matching(f"parameter ({what})", pattern, names)


def layer_decay(decay: float, final_norm: str, module: PlainModule, rules: Any) -> Any:
    """Returns the factor of each parameter's learning rate, decay ** (D + 1 - layer).

    Clark et al. 2020 (ELECTRA), as BEiT and MAE fine-tune: what lies deep below the head, and was
    learned in pre-training, moves less. Layers are numbered by `models.layer_ids`.

    Args:
      decay: factor from one layer to the one below, 1 for none.
      final_norm: see `models.layer_ids.layer_id`.
      module: the model whose parameters they are.
      rules: the tree of `param_rules.rules`.

    Raises:
      UserError: the module's layers have no numbers, or a parameter is not one of the module's.
    """
    last = num_blocks(module) + 1

    def factor(name: str) -> float:
        return decay ** (last - layer_id(module, name.split("/"), final_norm))

    return _for_each_layer(factor, rules)


def lr_scales(pairs: Pairs, rules: Any) -> Any:
    """Returns the factor of each parameter's learning rate: of the last pattern that fits, or 1.

    Args:
      pairs: `(pattern, factor)`.
      rules: the tree of `param_rules.rules`.

    Raises:
      UserError: a pattern fits no parameter.
    """
    check_patterns("optim.lr_scales", [pattern for pattern, _ in pairs], rules)
    return _for_each_layer(lambda name: _last_fit(pairs, name, 1.0), rules)


def weight_decays(pairs: Pairs, default: float, rules: Any) -> Any:
    """Returns each parameter's weight decay: of the last pattern that fits, or by its rule.

    Args:
      pairs: `(pattern, weight decay)`; reaches also what by its rule is not decayed.
      default: of a parameter that is decayed by its rule and that no pattern fits.
      rules: the tree of `param_rules.rules`.
    """

    def of(rule: Rule) -> np.ndarray:
        by_rule = default if rule.decayed else 0.0
        return _along_layers(rule, lambda name: _last_fit(pairs, name, by_rule))

    return jax.tree.map(of, rules)


def any_fits(patterns: Sequence[str], name: str) -> bool:
    """Whether a name is meant by one of several patterns."""
    return any(naming.fits(pattern, name) for pattern in patterns)


def _last_fit(pairs: Pairs, name: str, otherwise: float) -> float:
    fitting = [value for pattern, value in pairs if naming.fits(pattern, name)]
    return fitting[-1] if fitting else otherwise


def _for_each_layer(function: Callable[[str], float], rules: Any) -> Any:
    return jax.tree.map(lambda rule: _along_layers(rule, function), rules)


def _along_layers(rule: Rule, function: Callable[[str], float]) -> np.ndarray:
    values = np.array([function(name) for name in layer_names(rule)])
    if not rule.stacked:
        return values[0]
    return values.reshape(-1, *(1,) * (len(rule.shape) - 1))
