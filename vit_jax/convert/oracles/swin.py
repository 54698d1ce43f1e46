"""Swin Transformers of timm and of Transformers: what both have in common as oracles."""

from typing import TYPE_CHECKING, Any

from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import torch


def blocks_of(stages: Any) -> list["torch.nn.Module"]:
    """The blocks of all stages in order, where `stages` has stages; else its entries."""
    return [block for stage in stages for block in getattr(stage, "blocks", [stage])]


def with_exact_offsets(theirs: "torch.nn.Module") -> "torch.nn.Module":
    """The same module, the log-spaced offsets of its windows in float64 (version 2).

    Both libraries compute these in float32, whatever the dtype of the model: no more than seven
    digits of a result would be comparable.

    Raises:
        UserError: their offsets are other ones than the paper's, beyond the rounding of float32.
    """
    torch = import_library("torch", "checking Swin Transformers")
    for name, module in theirs.named_modules():
        if not hasattr(module, "relative_coords_table"):
            continue
        found = module.relative_coords_table
        exact = _offsets(torch, module.window_size, module.pretrained_window_size)
        if found.shape != exact.shape or not torch.allclose(found.double(), exact, 1e-5, 1e-6):
            raise UserError(f"{name} of {type(theirs).__name__} has other offsets than the paper")
        module.relative_coords_table = exact
    return theirs


def _offsets(torch: Any, window: Any, trained: Any) -> "torch.Tensor":
    """Liu et al., "Swin Transformer V2" (2022), equation 4: `(1, 2p - 1, 2q - 1, 2)`.

    They are measured by the window in pre-training, so that its corners are at 8; their scale, and
    a logarithm to base 8, are the authors' code's.
    """
    axes = []
    for size, before in zip(window, trained):
        steps = torch.arange(1 - size, size, dtype=torch.float64)
        axes.append(8 * steps / max((before or size) - 1, 1))
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]
    return offsets.sign() * (1 + offsets.abs()).log2() / 3
