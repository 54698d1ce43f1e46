"""Training: configuration, optimizers, the jitted step, checkpoints and the loop."""

import importlib

_HOMES = {
    "Result": "vit_jax.training.loop",
    "base_config": "vit_jax.training.config",
    "evaluate": "vit_jax.training.evaluation",
    "evaluate_knn": "vit_jax.training.knn",
    "load_config": "vit_jax.training.config",
    "train": "vit_jax.training.loop",
}
__all__ = ["Result", "base_config", "evaluate", "evaluate_knn", "load_config", "train"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_jax.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
