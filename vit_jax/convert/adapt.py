"""Parameters of one module for another: what is taken, resampled, newly drawn or left out.

Nothing happens unannounced: a leaf that cannot be taken as it is, and that no pattern names, is an
error that lists it.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax.convert.errors import listed
from vit_jax.errors import UserError
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.transfer import resample_params
from vit_jax.models.vit import pair

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """What became of each leaf, as sorted paths such as "encoder/blocks_0/norm1/scale".

    Attributes:
        taken: as they were.
        resampled: resized for another resolution or patch size.
        drawn: newly, as at the start of training.
        left_out: leaves of the old parameters that the new module has no place for.
    """

    taken: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} taken"]
        for name in ("resampled", "drawn", "left_out"):
            paths = getattr(self, name)
            if paths:
                parts.append(f"{len(paths)} {name.replace('_', ' ')}: {', '.join(paths)}")
        return "parameters: " + "; ".join(parts)


def adapt(
    params: Params,
    old: PlainModule,
    new: PlainModule,
    *,
    resampled: Sequence[str] = (),
    drawn: Sequence[str] = (),
    left_out: Sequence[str] = (),
    draw: Callable[[Collection[str]], Mapping[str, Any]] | None = None,
    advice: str = "If that is meant, say so: {what}={patterns}",
) -> tuple[dict[str, Any], Adaptation]:
    """Makes parameters of `old` fit `new`.

    Args:
        params: of `old`, without the "params" level.
        old: the module that they are of; unrolled or scanned as `new` is.
        new: the module that they are wanted for.
        resampled: shell patterns of paths that may be resized (position tables, patch embedding).
        drawn: of paths that are drawn anew, also where the old parameters would fit: a head for
            as many other classes.
        left_out: of paths of the old parameters that may be left out.
        draw: gives new leaves by path; None draws them as `new.init` does with key 0.
        advice: what to do where a pattern is lacking: `what` is the argument, `patterns` what it
            would have to be.

    Returns:
        The parameters of `new`, and what became of each leaf.

    Raises:
        UserError: a leaf would have to be resized, drawn or left out, and no pattern says so; or a
            pattern names no leaf that is drawn, or has to be resized or left out.
    """
    images = jax.ShapeDtypeStruct((1, *pair(new.img_size), new.in_chans), jnp.float32)
    wanted = _flat(jax.eval_shape(new.init, jax.random.key(0), images)["params"])
    found = _flat(params)
    if _size(old) != _size(new):
        found = _flat(resample_params(params, old, new))
    moved = {
        path
        for path, leaf in _flat(params).items()
        if path in found and found[path] is not leaf and not np.array_equal(found[path], leaf)
    }
    lost = {path for path in found if path not in wanted}
    fresh = {p for p in wanted if p not in found or found[p].shape != wanted[p].shape}
    fresh |= {path for path in wanted if _named(path, drawn)}
    lost |= {path for path in fresh if path in found}
    moved -= fresh | lost
    _check_announced("resampled", moved, resampled, advice)
    _check_announced("drawn", fresh, drawn, advice)
    _check_announced("left_out", lost - fresh, left_out, advice)
    leaves = {path: found[path] for path in wanted if path not in fresh}
    leaves |= draw(fresh) if draw is not None else _draw(new, fresh)
    report = Adaptation(
        taken=tuple(sorted(set(leaves) - moved - fresh)),
        resampled=tuple(sorted(moved)),
        drawn=tuple(sorted(fresh)),
        left_out=tuple(sorted(lost - fresh)),
    )
    return traverse_util.unflatten_dict({p: leaves[p] for p in wanted}, sep="/"), report


def _flat(params: Params) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _size(module: Any) -> tuple[Any, ...]:
    """What parameters are resized for: image, patch and, in Swin, window."""
    if not hasattr(module, "patch_size"):  # convolutions fit images of any size
        return ()
    return pair(module.img_size), pair(module.patch_size), getattr(module, "window_size", None)


def _check_announced(
    what: str, paths: Collection[str], patterns: Sequence[str], advice: str
) -> None:
    """Each path is named by a pattern, and each pattern names a path."""
    silent = [path for path in sorted(paths) if not _named(path, patterns)]
    if silent:
        verb = {"resampled": "resized", "drawn": "drawn anew", "left_out": "left out"}[what]
        wanted = tuple(sorted({p.split("/")[0] + "/*" for p in silent}))
        raise UserError(
            f"{len(silent)} parameters would have to be {verb}: {listed(silent)}. "
            + advice.format(what=what, patterns=wanted)
        )
    idle = [q for q in patterns if not any(fnmatch.fnmatchcase(p, q) for p in paths)]
    if idle:
        which = "at all" if what == "drawn" else "that has to be"
        raise UserError(f"{what}={tuple(idle)} names no parameter {which}; take it out")


def _named(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _draw(module: PlainModule, paths: Collection[str]) -> dict[str, jax.Array]:
    """The leaves at `paths` as `module.init` draws them, without making the others."""
    if not paths:
        return {}
    shape = (1, *pair(module.img_size), module.in_chans)

    @jax.jit
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        leaves = _flat(module.init(key, jnp.zeros(shape))["params"])
        return {path: leaves[path] for path in paths}

    return draw(jax.random.key(0))
