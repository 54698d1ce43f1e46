"""Imports PyTorch, timm and Transformers where a check against them asks for it.

Both libraries import torchvision, whose usual build does not load beside a PyTorch for CPUs: its
operators are missing. Nothing here runs them, so two declarations stand in for them.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from vit_jax.errors import UserError

_KEPT: list[Any] = []  # declarations of operators live as long as these objects


def import_library(name: str, purpose: str) -> ModuleType:
    """Imports "torch", "timm" or "transformers".

    Args:
        name: of the library.
        purpose: what it is needed for, as the beginning of a sentence.

    Raises:
        UserError: it is not installed; says what to do.
    """
    try:
        torch = importlib.import_module("torch")
        if name != "torch":
            _import_torchvision(torch)
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise UserError(
            f"{purpose} needs {missing} ({error}): pip install vit_jax[torch]"
        ) from error


def _import_torchvision(torch: ModuleType) -> None:
    """Makes `import torchvision` work, if it is installed."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
