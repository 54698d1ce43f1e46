"""vit_jax: the Vision Transformer family in JAX and Flax.

Names are loaded on first use, so that `import vit_jax` costs little and building or running a
model needs jax, flax and numpy alone.
"""

import importlib

__version__ = "0.1.0"

# Where each public name lives.
_HOMES = {
    "benchmark": "vit_jax.measure.benchmark",
    "calibration": "vit_jax.evaluation.calibration",
    "compile_ahead": "vit_jax.ahead.compile_ahead",
    "confusion": "vit_jax.evaluation.confusion",
    "create_model": "vit_jax.models",
    "inspect_model": "vit_jax.inspect.inspection",
    "list_models": "vit_jax.models",
    "model_table": "vit_jax.inspect.catalogue",
    "preprocess": "vit_jax.data",
    "preprocessing": "vit_jax.models",
    "open_model": "vit_jax.training.trained",
    "predict": "vit_jax.inference.predict",
    "export_checkpoint": "vit_jax.deploy.export",
    "extract_features": "vit_jax.inference.features",
    "export_program": "vit_jax.deploy.export",
    "load_exported": "vit_jax.deploy.load",
    "from_pretrained": "vit_jax.convert.pretrained",
    "pretrained_preprocessing": "vit_jax.convert.pretrained",
    "save_pretrained": "vit_jax.convert.convert",
    "base_config": "vit_jax.training.config",
    "load_config": "vit_jax.training.config",
    "train": "vit_jax.training",
    "evaluate": "vit_jax.training",
    "evaluate_knn": "vit_jax.training",
    "probe": "vit_jax.evaluation.probe",
    "serve": "vit_jax.serving.run",
    "start_from": "vit_jax.training.start_from",
    "validate": "vit_jax.convert.validate",
}
__all__ = [
    "__version__",
    "base_config",
    "benchmark",
    "calibration",
    "compile_ahead",
    "confusion",
    "create_model",
    "evaluate",
    "evaluate_knn",
    "export_checkpoint",
    "export_program",
    "extract_features",
    "from_pretrained",
    "inspect_model",
    "list_models",
    "load_config",
    "load_exported",
    "model_table",
    "open_model",
    "predict",
    "preprocess",
    "preprocessing",
    "pretrained_preprocessing",
    "probe",
    "save_pretrained",
    "serve",
    "start_from",
    "train",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_jax' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
