"""A program as StableHLO, in the container of `jax.export`: weights inside, any batch size.

The file holds StableHLO in its portable form, which later versions of JAX read for at least six
months (see the documentation of `jax.export`), for one or several platforms.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from vit_jax import naming
from vit_jax.deploy.program import Program
from vit_jax.errors import UserError

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
# The container counts bytes in 32 bits with a sign; the rest is for the program itself.
MAX_BYTES = 2**31 - 2**26


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """The platforms, each once.

    Raises:
        UserError: there is none, or one is unknown.
    """
    if not platforms:
        raise UserError(f"no platforms: expected some of {', '.join(PLATFORMS)}")
    naming.check_known("platform", platforms, PLATFORMS)
    return tuple(dict.fromkeys(platforms))


def write(folder: Path, program: Program, platforms: Sequence[str]) -> dict[str, Any]:
    """Writes `model.stablehlo`; returns what its description says of it.

    Raises:
        UserError: the weights are too large for one file.
    """
    params = _as_read(program)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > MAX_BYTES:
        raise UserError(
            f"the weights take {size:,} bytes and a StableHLO file holds {MAX_BYTES:,}: use "
            "--dtype bfloat16, or --format onnx, which writes them beside the program"
        )
    (batch,) = jax_export.symbolic_shape("batch")
    function = jax.jit(lambda images: program.function(params, images))
    exported = jax_export.export(function, platforms=platforms)(program.pictures(batch))
    (folder / FILE).write_bytes(exported.serialize())
    return {
        "file": FILE,
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
    }


def _as_read(program: Program) -> Any:
    """The parameters, rounded to the computation's dtype where nothing else is read of them.

    A layer that computes in bfloat16 rounds its kernel first; norms, and heads in float32, do not.
    """
    leaves, tree = jax.tree.flatten(program.params)
    leaves = [np.asarray(leaf) for leaf in leaves]
    narrow = jnp.dtype(program.dtype)
    if narrow == np.float32:
        return tree.unflatten(leaves)
    pictures = program.pictures(1)
    traced = jax.make_jaxpr(program.function)(program.params, pictures).jaxpr
    for i, variable in enumerate(traced.invars[: len(leaves)]):
        readers = [eqn for eqn in traced.eqns if any(x is variable for x in eqn.invars)]
        if all(_rounds(eqn, narrow) for eqn in readers):
            leaves[i] = leaves[i].astype(narrow)
    return tree.unflatten(leaves)


def _rounds(eqn: Any, dtype: np.dtype) -> bool:
    """Whether an operation of a traced function does nothing but to convert to `dtype`."""
    return eqn.primitive.name == "convert_element_type" and eqn.params["new_dtype"] == dtype
