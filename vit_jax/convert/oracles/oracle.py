"""What an oracle is: a PyTorch module, and the places where its states are compared with ours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.convert import mapping, params
from vit_jax.convert.layouts import Layout, Source
from vit_jax.convert.tensors import LazyTensor
from vit_jax.models.partitioning import PlainModule

if TYPE_CHECKING:
    import torch

States = dict[str, np.ndarray]
Tensors = Mapping[str, "torch.Tensor"]


def as_source(tensors: Tensors) -> Source:
    """Tensors under their own names, as if they had been stored."""
    return Source(Path(), {name: in_memory(x.detach().numpy()) for name, x in tensors.items()})


def in_memory(array: np.ndarray) -> LazyTensor:
    """An array as readers of files return tensors."""
    return LazyTensor(array.shape, array.dtype, lambda: array)


def mask_noise(images: int, patches: int) -> np.ndarray:
    """What both sides shuffle patches by, where a model masks some at random `(b, n)`, float64."""
    return np.random.default_rng(7).random((images, patches))


def uncovered(img_size: int | Sequence[int], patch_size: int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns of an image that its patches do not cover."""
    sizes = [2 * [x] if isinstance(x, int) else list(x) for x in (img_size, patch_size)]
    down, right = (side % patch for side, patch in zip(*sizes))
    return down, right


@dataclasses.dataclass(frozen=True)
class Oracle:
    """An independent implementation with weights in it.

    Attributes:
        name: of library and class.
        how: the way in which the weights reached it.
        module: of PyTorch, in evaluation mode.
        blocks: its blocks, in order.
        norm: its norm after the last block, or None where there is none to look at.
        output: from images `(b, c, h, w)` to what our module returns.
        layout: says how its stored parameters and ours correspond.
        named: a tensor for each of its parameters, under the names that the layout knows.
        rest: rows and columns of its images that its patches do not cover; ours lack them.
        decoder: blocks of a decoder, in order, whose states are "decoder.0", ...
    """

    name: str
    how: str
    module: "torch.nn.Module"
    blocks: Sequence["torch.nn.Module"]
    norm: "torch.nn.Module | None"
    output: Callable[["torch.Tensor"], "torch.Tensor"]
    layout: Layout
    named: Callable[[Tensors], Source] = as_source
    rest: tuple[int, int] = (0, 0)
    decoder: Sequence["torch.nn.Module"] = ()

    def states(self, images: np.ndarray, dtype: str) -> States:
        """Hidden states by place: "embedding", "blocks.0", ..., "norm", "decoder.0", ..., "output".

        Args:
            images: `(b, h, w, c)`.
            dtype: "float64" or "float32"; the module is turned to it and stays so.
        """
        import torch

        with torch.no_grad():
            states = self._run(images, dtype)
        return {place: x.numpy() for place, x in states.items()}

    def states_and_gradients(
        self, images: np.ndarray, dtype: str, cotangent: Callable[[tuple[int, ...]], np.ndarray]
    ) -> tuple[States, Source]:
        """The states, and the gradient of `sum(output * cotangent)` for each parameter.

        Args:
            images: see `states`.
            dtype: see `states`.
            cotangent: from the shape of the output to an array of that shape.

        Returns:
            The states; and the gradients as a source in the oracle's layout, zero for parameters
            that the output does not depend on.
        """
        import torch

        self.module.requires_grad_(True)
        self.module.zero_grad()
        states = self._run(images, dtype)
        output = states["output"]
        weight = torch.from_numpy(cotangent(tuple(output.shape)).astype(dtype))
        (output * weight).sum().backward()
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self.module.named_parameters()
        }
        source = self.named(gradients)
        self.module.zero_grad()
        return {place: x.detach().numpy() for place, x in states.items()}, source

    def _run(self, images: np.ndarray, dtype: str) -> dict[str, "torch.Tensor"]:
        import torch

        seen: dict[str, torch.Tensor] = {}
        hooks = self._watch(seen)
        self.module.to(getattr(torch, dtype))
        try:
            planes = images.astype(dtype).transpose(0, 3, 1, 2)
            down, right = self.rest
            planes = np.pad(planes, [(0, 0), (0, 0), (0, down), (0, right)])
            output = self.output(torch.from_numpy(planes))
        finally:
            for hook in hooks:
                hook.remove()
        return {**seen, "output": output}

    def _watch(self, seen: dict[str, Any]) -> list[Any]:
        """Hooks that write what passes into `seen`."""

        def enter(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen["embedding"] = arguments[0] if arguments else named["hidden_states"]

        def leave(place: str) -> Callable[..., None]:
            def hook(module: Any, arguments: Any, result: Any) -> None:
                seen[place] = result[0] if isinstance(result, tuple) else result

            return hook

        hooks = [self.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)]
        for i, block in enumerate(self.blocks):
            hooks.append(block.register_forward_hook(leave(f"blocks.{i}")))
        for i, block in enumerate(self.decoder):
            hooks.append(block.register_forward_hook(leave(f"decoder.{i}")))
        if self.norm is not None:
            hooks.append(self.norm.register_forward_hook(leave("norm")))
        return hooks

    def to_ours(self, tensors: Source, module: PlainModule, dtype: str) -> dict[str, np.ndarray]:
        """Stored tensors by the paths of our parameters, through the layout's mapping table.

        It stacks, cuts and turns axes and does no arithmetic, so it serves gradients as well.
        """
        leaves = params.by_path(params.allocate(module, dtype))
        mapping.fill(tensors.tensors, self.layout.table(module, tensors), leaves)
        return leaves
