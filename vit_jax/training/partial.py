"""Trains a part of the parameters; the others stay as they are, bit for bit.

What is frozen is moved from the trained tree to the carried one. So no gradient of it is computed,
the optimizer keeps no moments of it, the running average no copy, and no rounding can reach it.

In a scanned stack of blocks some layers may be frozen and others not: such an array is cut into its
layers, which are called as in the unrolled layout, and stacked again in every step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from vit_jax.errors import UserError
from vit_jax.objectives.base import Batch, Extra, Objective, Params
from vit_jax.training import param_groups, param_rules
from vit_jax.training.wrapped import Wrapped

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """What becomes of one parameter.

    Attributes:
      path: names from the root of the tree to the array.
      layers: paths of its layers where some of them are frozen and some are not, else its own.
      frozen: whether each of `layers` is frozen.
    """

    path: Path
    layers: tuple[Path, ...]
    frozen: tuple[bool, ...]

    @property
    def is_cut(self) -> bool:
        """Whether the array is cut into its layers."""
        return self.layers != (self.path,)


@dataclasses.dataclass(frozen=True)
class Partial(Wrapped):
    """Trains what is not frozen.

    params: the trained part of the inner objective's; extra: {"frozen": the rest, "inner": ...}

    Attributes:
      inner: what is learned.
      parts: of all parameters.
    """

    parts: tuple[Part, ...]

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, Extra]:
        """Returns the trained part, and the frozen one in `extra`."""
        return self._closed(*self.inner.init(rng, batch))

    def logical_axes(self, batch: Batch) -> tuple[Any, Any]:
        """Returns the axes of `init`."""
        params, extra = self.inner.logical_axes(batch)
        trained, frozen = self._split(params, lambda names, i: names[1:])
        return trained, {"frozen": frozen, "inner": extra}

    def with_module_params(
        self, params: Params, extra: Extra, module_params: Params
    ) -> tuple[Params, Extra]:
        """Returns `params` and `extra` with pretrained parameters, trained and frozen ones."""
        opened = self.open(params, extra)
        return self._closed(*self.inner.with_module_params(*opened, module_params))

    def open(self, params: Params, extra: Extra) -> tuple[Params, Extra]:
        """Returns the whole of the parameters."""
        flat = {
            path: jax.lax.stop_gradient(leaf)
            for path, leaf in traverse_util.flatten_dict(extra["frozen"]).items()
        }
        flat |= traverse_util.flatten_dict(params)
        whole = {
            part.path: jnp.stack([flat[path] for path in part.layers])
            if part.is_cut
            else flat[part.path]
            for part in self.parts
        }
        return traverse_util.unflatten_dict(whole), extra["inner"]

    def close(self, extra: Extra, inner: Extra) -> Extra:
        """Returns what is carried; the frozen part is what it was."""
        return {"frozen": extra["frozen"], "inner": inner}

    def _closed(self, params: Params, extra: Extra) -> tuple[Params, Extra]:
        trained, frozen = self._split(params, lambda leaf, i: leaf[i])
        return trained, {"frozen": frozen, "inner": extra}

    def _split(
        self, tree: Params, layer: Callable[[Any, int], Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the trained and the frozen part of a tree like that of all parameters."""
        flat = traverse_util.flatten_dict(tree)
        found: tuple[dict[Path, Any], dict[Path, Any]] = ({}, {})
        for part in self.parts:
            leaf = flat[part.path]
            for i, (path, frozen) in enumerate(zip(part.layers, part.frozen)):
                found[frozen][path] = layer(leaf, i) if part.is_cut else leaf
        trained, frozen = map(traverse_util.unflatten_dict, found)
        return trained, frozen


def freeze(objective: Objective, batch: Batch, is_frozen: Callable[[str], bool]) -> Partial:
    """Returns an objective that trains a part of the parameters of another.

    Args:
      objective: what is learned.
      batch: `jax.ShapeDtypeStruct`s of a batch.
      is_frozen: of the names that `param_rules.layer_names` gives.

    Raises:
      UserError: nothing would be trained.
    """
    params, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    parts = []
    for rule in jax.tree.leaves(param_rules.rules(params)):
        names = param_rules.layer_names(rule)
        frozen = tuple(map(is_frozen, names))
        if len(set(frozen)) == 1:
            parts.append(Part(rule.path, (rule.path,), frozen[:1]))
        else:
            parts.append(Part(rule.path, tuple(tuple(n.split("/")) for n in names), frozen))
    if all(all(part.frozen) for part in parts):
        raise UserError("every parameter is frozen: leave out a pattern of optim.frozen")
    return Partial(objective.module, objective, tuple(parts))


def freeze_patterns(objective: Objective, batch: Batch, patterns: tuple[str, ...]) -> Objective:
    """Returns an objective without what `config.optim.frozen` names.

    Args:
      objective: what is learned.
      batch: see `freeze`.
      patterns: of parameters; without any the objective is as it was.

    Raises:
      UserError: a pattern fits no parameter, or nothing would be trained.
    """
    if not patterns:
        return objective
    params, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    param_groups.check_patterns("optim.frozen", patterns, param_rules.rules(params))
    return freeze(objective, batch, lambda name: param_groups.any_fits(patterns, name))
