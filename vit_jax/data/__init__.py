"""Sources, decoding, augmentation and batching; names are loaded on first use.

source = open_source("folder:~/flowers", "train")
transform = build_transform("inception_crop | flip", size=(224, 224))
batches = train_batches(source, transform, batch_size=128, seed=0)
"""

import importlib

_HOMES = {
    "BatchIterator": "vit_jax.data.pipeline",
    "DecodeError": "vit_jax.data.decode",
    "Source": "vit_jax.data.sources",
    "build_transform": "vit_jax.data.transforms",
    "eval_batches": "vit_jax.data.pipeline",
    "eval_transform": "vit_jax.data.preprocessing",
    "open_source": "vit_jax.data.sources",
    "own_rows": "vit_jax.data.prefetch",
    "prefetch_to_device": "vit_jax.data.prefetch",
    "preprocess": "vit_jax.data.preprocessing",
    "train_batches": "vit_jax.data.pipeline",
    "write_folder": "vit_jax.data.to_folder",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_jax.data' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
