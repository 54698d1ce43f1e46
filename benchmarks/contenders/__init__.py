"""What is measured side by side: each contender is a library that does a piece of work."""

import dataclasses
from collections.abc import Callable, Container
from typing import Literal

Kind = Literal["forward", "train", "mae", "compile", "matmul"]

# (n) makes n steps and returns, whatever it returns, once the last one is done.
Steps = Callable[[int], object]


@dataclasses.dataclass(frozen=True)
class Work:
    """A piece of work, the same for every contender.

    Attributes:
        kind: "forward" (logits of images), "train" (an update by AdamW on softmax cross-entropy),
            "mae" (an update of a masked autoencoder), "compile" (tracing and compiling an update,
            which is not run) or "matmul" (a product of square matrices, the ceiling of what the
            machine does).
        model: its name in timm; of "matmul", "".
        batch: images; of "matmul", rows of a matrix.
        dtype: "float32" or "bfloat16", of the computation; parameters are float32.
        image_size: pixels of a side.
    """

    kind: Kind
    model: str
    batch: int
    dtype: str = "float32"
    image_size: int = 224


@dataclasses.dataclass(frozen=True)
class Contender:
    """A library, or one of the ways to run it.

    Attributes:
        name: as tables show it.
        group: "ours", "JAX" or "PyTorch".
        module: of this package, with a function `build(work, variant, checkout) -> Steps`.
        kinds: of work that it does.
        models: beginnings of the names of the models that it has.
        variant: which way to run it; what it means is the module's.
        checkout: whose folder has to be given for it to run; "" for what pip installs.
    """

    name: str
    group: Literal["ours", "JAX", "PyTorch"]
    module: str
    kinds: tuple[Kind, ...]
    models: tuple[str, ...]
    variant: str = ""
    checkout: str = ""

    def does(self, work: Work) -> bool:
        """Whether it can do a piece of work."""
        return work.kind in self.kinds and work.model.startswith(self.models)


_CLASSIFY = ("forward", "train")
_EVERY = (*_CLASSIFY, "mae")
_JAX = (*_CLASSIFY, "compile")
CONTENDERS = (
    Contender("vit_jax", "ours", "ours", (*_EVERY, "compile"), ("vit_", "swin_", "mae_")),
    Contender("vit_jax, scanned", "ours", "ours", (*_EVERY, "compile"), ("vit_", "mae_"), "scan"),
    Contender("big_vision", "JAX", "jax_peers", _JAX, ("vit_",), "", "big_vision"),
    Contender("big_vision, scanned", "JAX", "jax_peers", _JAX, ("vit_",), "scan", "big_vision"),
    Contender("vision_transformer", "JAX", "jax_peers", _JAX, ("vit_",), "", "vision_transformer"),
    Contender("deit3-jax", "JAX", "jax_peers", _JAX, ("vit_",), "", "deit3-jax"),
    Contender("timm, eager", "PyTorch", "timm_peer", _CLASSIFY, ("vit_", "swin_"), "eager"),
    Contender("timm, compiled", "PyTorch", "timm_peer", _CLASSIFY, ("vit_", "swin_"), "compiled"),
    Contender(
        "Transformers, eager",
        "PyTorch",
        "transformers_peer",
        _EVERY,
        ("vit_", "swin_", "mae_"),
        "eager",
    ),
    Contender(
        "Transformers, sdpa", "PyTorch", "transformers_peer", _EVERY, ("vit_", "mae_"), "sdpa"
    ),
    Contender(
        "Transformers, compiled",
        "PyTorch",
        "transformers_peer",
        _EVERY,
        ("vit_", "swin_", "mae_"),
        "compiled",
    ),
)


def able(work: Work, checkouts: Container[str]) -> tuple[list[Contender], list[Contender]]:
    """Returns those that can do a piece of work, and those that miss the checkout that they need.

    Args:
        work: what is to be done.
        checkouts: names of those that are given.
    """
    can = [c for c in CONTENDERS if c.does(work)]
    missing = [c for c in can if c.checkout and c.checkout not in checkouts]
    return [c for c in can if c not in missing], missing


CHECKOUTS = tuple(dict.fromkeys(c.checkout for c in CONTENDERS if c.checkout))
CEILINGS = (
    Contender("a matrix product in XLA", "JAX", "ours", ("matmul",), ("",)),
    Contender("a matrix product in PyTorch", "PyTorch", "torch_steps", ("matmul",), ("",)),
)
