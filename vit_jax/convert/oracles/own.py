"""A user's own PyTorch module as an oracle; its mapping file builds it."""

import numpy as np

from vit_jax.convert import own
from vit_jax.convert.layouts import Source
from vit_jax.convert.oracles.oracle import Oracle
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError


def load(description: own.Own, source: Source) -> Oracle:
    """The module that the mapping file builds, with the weights of a checkpoint.

    Args:
        description: the mapping file.
        source: the checkpoint.

    Raises:
        UserError: PyTorch is not installed, the file does not build a module or list its blocks,
            or the module does not load the checkpoint.
    """
    torch = import_library("torch", "checking against your own module")
    theirs = own.torch_module(description).double()
    if description.blocks is None:
        raise UserError(
            f"{description.path} has no function blocks(theirs) that lists the blocks of your "
            "module: nothing could be compared before the output"
        )
    wide = {name: np.array(x.read()).astype(np.float64) for name, x in source.tensors.items()}
    try:
        theirs.load_state_dict({name: torch.from_numpy(array) for name, array in wide.items()})
    except RuntimeError as error:
        raise UserError(
            f"the module that {description.path} builds does not load {source.path}: {error}"
        ) from error
    return Oracle(
        name=f"{type(theirs).__name__} of {description.path.name}",
        how="loaded by its own load_state_dict",
        module=theirs,
        blocks=list(description.blocks(theirs)),
        norm=None,
        output=theirs,
        layout=own.layout(description),
    )
