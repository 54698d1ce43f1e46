"""A stack of blocks: unrolled or scanned, with or without rematerialisation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.block import Block
from vit_jax.models.layers.drop import Key
from vit_jax.models.layers.recompute import products

CAPTURES = ("tokens", "attention")  # what each block can be asked for
POLICIES = tuple(name for name in dir(jax.checkpoint_policies) if name.endswith("saveable"))
REMATS = ("none", "full", *POLICIES)
Params = Mapping[str, Any]


def remat_policy(name: str) -> Any:
    """What a rematerialised block keeps for its backward pass.

    Args:
        name: "full" (keep nothing, recompute the block) or one of `POLICIES`, policies of
            `jax.checkpoint_policies`, such as "dots_with_no_batch_dims_saveable"; "dots_saveable"
            keeps what a kernel of attention gives too (see `layers.recompute.products`).

    Raises:
        UserError: no such policy.
    """
    if name == "full":
        return None
    if name not in POLICIES:
        raise UserError(f"remat={name!r} is unknown; choose one of {REMATS}")
    return products if name == "dots_saveable" else getattr(jax.checkpoint_policies, name)


class Encoder(nn.Module):
    """`depth` blocks in a row, on tokens `(b, n, d)` or a map of them `(b, h, w, d)`.

    Unrolled, the parameters are `blocks_0 ... blocks_{depth-1}`; scanned, they are one `blocks`
    whose leaves have a leading axis of length `depth`, and compile time does not grow with depth.
    `stack_blocks` and `unstack_blocks` turn one into the other. Every combination of `scan` and
    `remat` gives the same numbers, dropout included.

    Attributes:
        depth: number of blocks.
        block: hyper-parameters of `Block`.
        drop_path_rate: stochastic depth of the last block; it grows linearly from the first.
        first_drop_path_rate: stochastic depth of the first block.
        positions_differ: each block has a position of its own (see `Block`), along a first axis.
        scan: one traced block for all.
        remat: "none", or what `remat_policy` takes.
    """

    depth: int
    block: dict[str, Any]
    drop_path_rate: float = 0.0
    first_drop_path_rate: float = 0.0
    positions_differ: bool = False
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        position: jax.Array | np.ndarray | None = None,
        key: Key = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the tokens and, for each name of `CAPTURES` in `capture`, its values by depth."""
        keys = None if key is None else jax.random.split(key, self.depth)
        rates = np.linspace(self.first_drop_path_rate, self.drop_path_rate, self.depth)
        rates = jnp.asarray(rates)
        block_class = Block
        if self.remat != "none":
            # Within a scan XLA cannot merge the recomputation with the forward pass anyway.
            policy = remat_policy(self.remat)
            block_class = nn.remat(Block, policy=policy, prevent_cse=not self.scan)
        options = dict(**self.block, stochastic=self.drop_path_rate > 0, capture=capture)
        if self.scan:
            scanned = nn.scan(
                block_class,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0 if self.positions_differ else nn.broadcast, 0, 0),
                length=self.depth,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return scanned(**options, name="blocks")(x, position, keys, rates)
        found = []
        for i in range(self.depth):
            block = block_class(**options, name=f"blocks_{i}")
            here = position[i] if self.positions_differ else position
            x, captured = block(x, here, None if keys is None else keys[i], rates[i])
            found.append(captured)
        return x, {name: jnp.stack([f[name] for f in found]) for name in capture}


def stack_blocks(params: Params) -> dict[str, Any]:
    """Turns the unrolled layout (`blocks_0`, `blocks_1`, ...) into the scanned one (`blocks`).

    Works at any depth of nesting, on parameters as on anything shaped like them.

    Raises:
        UserError: the numbering has a hole.
    """
    blocks = {int(k[len("blocks_") :]): k for k in params if k.startswith("blocks_")}
    if sorted(blocks) != list(range(len(blocks))):
        raise UserError(f"blocks are not numbered 0..{len(blocks) - 1}: {sorted(blocks)}")
    rest = {k: v for k, v in params.items() if k not in blocks.values()}
    out = {k: stack_blocks(v) if isinstance(v, Mapping) else v for k, v in rest.items()}
    if blocks:
        layers = [params[blocks[i]] for i in range(len(blocks))]
        out["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return out


def unstack_blocks(params: Params) -> dict[str, Any]:
    """Turns the scanned layout (`blocks`) into the unrolled one; the inverse of `stack_blocks`."""
    rest = {k: v for k, v in params.items() if k != "blocks"}
    out = {k: unstack_blocks(v) if isinstance(v, Mapping) else v for k, v in rest.items()}
    if "blocks" in params:
        depth = jax.tree.leaves(params["blocks"])[0].shape[0]
        for i in range(depth):
            out[f"blocks_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
    return out
