"""Tensors to store, the formats that hold them, and how to compare what comes back."""

import ml_dtypes
import numpy as np

from vit_jax.convert import writers


def tensors():
    """One of each kind that checkpoints hold, and of each shape that is special."""
    rng = np.random.default_rng(0)
    return {
        "patch_embed.proj.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "norm.weight": rng.normal(size=5).astype(np.float16),
        "norm.bias": rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16),
        "logit_scale": np.asarray(rng.normal(), np.float64),
        "relative_position_index": np.arange(6).reshape(2, 3),
        "num_batches_tracked": np.asarray(7, np.int64),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 3), np.float32),
    }


WRITERS = {
    ".safetensors": writers.write_safetensors,
    ".npz": writers.write_npz,
    ".pth": writers.write_torch,
}


def assert_same(found, expected):
    """The lazy tensors `found` are the arrays `expected`, to the bit, and cannot be changed."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        lazy, values = found[name], found[name].read()
        assert (lazy.shape, lazy.dtype) == (array.shape, array.dtype), name
        assert (values.shape, values.dtype) == (array.shape, array.dtype), name
        assert values.tobytes() == array.tobytes(), name
        assert lazy.nbytes == array.nbytes
        assert not values.flags.writeable
