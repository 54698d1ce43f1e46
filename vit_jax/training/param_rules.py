"""How an optimizer treats each parameter, decided from the parameter's path and shape.

Four questions have one answer each, here and nowhere else:

- Is the parameter a stack of layers? Yes below a component named `blocks` (or `*_blocks`):
  `nn.scan` keeps the weights of all blocks in one array with a leading layers axis.
- Is it decayed? Only what is called `kernel`: the weights of linear maps and convolutions. Biases,
  norm scales, LayerScale gammas, position embeddings, class, distillation, register and mask
  tokens and pooling queries are not, whatever their rank.
- Is it a matrix to Muon, and along which axes? Kernels are, but those of the classifier heads
  (Jordan et al. 2024, "Muon": embeddings and heads are for Adam). The rest goes to Adam.
- What is it called in a pattern of the configuration? By its path; a stack of layers by the path of
  each layer as if it were not stacked, so that a pattern says the same of both layouts.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax

from vit_jax.errors import UserError

# Components of a path that make everything below a classifier head.
_HEADS = ("head", "head_dist")
# Kernels (inputs, parts, outputs ...) that hold several matrices side by side, axis 1 counts them:
# queries, keys and values; the two inputs of a gated MLP.
_FUSED = ("qkv", "kv", "fc1")
# Kernels (inputs, heads, head_dim) of a single projection to heads.
_TO_HEADS = ("q", "k", "v", "query", "key", "value")
# Kernels (heads, head_dim, outputs) that merge the heads.
_FROM_HEADS = ("proj", "out")


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The axes of an array that make it a matrix; every other axis counts matrices.

    Attributes:
      inputs: axes that the map sums over.
      outputs: axes that the map produces.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns rows (inputs) and columns (outputs) of the matrices in an array of `shape`."""
        rows, columns = (
            math.prod(shape[axis] for axis in axes) for axes in (self.inputs, self.outputs)
        )
        return rows, columns


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one parameter is treated.

    Attributes:
      path: names from the root of the tree to the array.
      shape: of the array.
      stacked: its leading axis counts layers.
      decayed: weight decay applies.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool
    decayed: bool


def rules(params: Any) -> Any:
    """Returns the tree of `params` with a `Rule` in the place of each array.

    Args:
      params: nested dicts of arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: layers of unequal number in one stack.
    """
    tree = jax.tree_util.tree_map_with_path(lambda path, x: _rule(_names(path), x.shape), params)
    _check_stacks(jax.tree.leaves(tree))
    return tree


def layer_names(rule: Rule) -> tuple[str, ...]:
    """Returns what patterns call a parameter: its path, or for a stack that of each layer.

    The third layer of `encoder/blocks/norm1/scale` is `encoder/blocks_2/norm1/scale`.
    """
    if not rule.stacked:
        return ("/".join(rule.path),)
    depth = next(i for i, name in enumerate(rule.path) if _is_stack(name))
    before, stack, after = rule.path[:depth], rule.path[depth], rule.path[depth + 1 :]
    return tuple("/".join((*before, f"{stack}_{i}", *after)) for i in range(rule.shape[0]))


def in_head(rule: Rule) -> bool:
    """Whether a parameter is of a classifier head."""
    return bool(set(rule.path) & set(_HEADS))


def muon_matrix(rule: Rule) -> Matrix | None:
    """Returns the axes that Muon orthogonalises; None for a parameter that is left to its Adam.

    Raises:
      UserError: see `matrix`.
    """
    return None if in_head(rule) else matrix(rule)


def matrix(rule: Rule) -> Matrix | None:
    """Returns which axes of a kernel are inputs and outputs; None for what is no kernel.

    Raises:
      UserError: a kernel of three or more axes in a layer whose name is not known.
    """
    if rule.path[-1] != "kernel":
        return None
    layer = rule.path[-2] if len(rule.path) > 1 else ""
    axes = tuple(range(int(rule.stacked), len(rule.shape)))
    if len(axes) == 2:  # (inputs, outputs)
        return Matrix(axes[:1], axes[1:])
    if layer in _FUSED and len(axes) >= 3:
        return Matrix(axes[:1], axes[2:])
    if layer in _TO_HEADS and len(axes) == 3:
        return Matrix(axes[:1], axes[1:])
    # Convolutions are (height, width, channels in, channels out), as in all of Flax.
    if (layer in _FROM_HEADS and len(axes) == 3) or len(axes) == 4:
        return Matrix(axes[:-1], axes[-1:])
    raise UserError(
        f"no rule says which axes of {'/'.join(rule.path)} {rule.shape} are inputs and which are "
        "outputs; add its layer's name to vit_jax/training/param_rules.py"
    )


def describe(params: Any) -> str:
    """Returns a table of `rules`: a line for each parameter, with what Muon would do with it.

    Args:
      params: nested dicts of arrays or `jax.ShapeDtypeStruct`s.
    """
    rows = [("name", "shape", "weight decay", "under Muon")]
    for rule in jax.tree.leaves(rules(params)):
        shape = "x".join(map(str, rule.shape)) or "scalar"
        rows.append(("/".join(rule.path), shape, "yes" if rule.decayed else "no", _muon_text(rule)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _names(path: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def _rule(path: tuple[str, ...], shape: tuple[int, ...]) -> Rule:
    return Rule(path, shape, any(map(_is_stack, path)), decayed=path[-1] == "kernel")


def _is_stack(name: str) -> bool:
    return name == "blocks" or name.endswith("_blocks")


def _check_stacks(leaves: Iterable[Rule]) -> None:
    """Raises UserError where arrays of one stack differ in their number of layers."""
    seen: dict[tuple[str, ...], Rule] = {}
    for rule in leaves:
        if not rule.stacked:
            continue
        depth = next(i for i, name in enumerate(rule.path) if _is_stack(name))
        first = seen.setdefault(rule.path[: depth + 1], rule)
        if not rule.shape or rule.shape[0] != first.shape[0]:
            raise UserError(
                f"{'/'.join(rule.path)} has shape {rule.shape} and {'/'.join(first.path)} "
                f"{first.shape}: arrays below {rule.path[depth]!r} share a leading layers axis"
            )


def _muon_text(rule: Rule) -> str:
    matrix = muon_matrix(rule)
    if matrix is None:
        return "adam"
    inputs, outputs = matrix.sizes(rule.shape)
    count = math.prod(rule.shape) // (inputs * outputs)
    return f"{count} of {inputs}x{outputs}" if count > 1 else f"{inputs}x{outputs}"
