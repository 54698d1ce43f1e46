"""timm's augmentations fed with the numbers of a NumPy generator, so that choices are the same."""

import importlib
import types

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.models import timm_oracle  # noqa: F401 - makes timm importable without CUDA

timm_augment = importlib.import_module("timm.data.auto_augment")
timm_erasing = importlib.import_module("timm.data.random_erasing")
HPARAMS = {"interpolation": Image.Resampling.BICUBIC, "img_mean": (124, 116, 104)}


class Source:
    """Python's `random`, and `numpy.random`, as far as timm calls them."""

    def __init__(self, rng):
        self._rng = rng

    def random(self):
        return self._rng.random()

    def uniform(self, low, high):
        return low + (high - low) * self._rng.random()

    def gauss(self, mean, std):
        return self._rng.normal(mean, std)

    def randint(self, low, high):
        return int(self._rng.integers(low, high + 1))

    def choice(self, values, size=None, replace=True, p=None):
        assert replace
        assert p is None
        if size is None:
            return values[self._rng.integers(len(values))]
        return [values[i] for i in self._rng.integers(len(values), size=size)]


def posterize(image, bits):
    """What Pillow did before version 13, and papers did, for 0 bits too."""
    kept = np.asarray(image) & np.uint8(255 - (2 ** (8 - bits) - 1) % 256)
    return Image.fromarray(kept)


@pytest.fixture
def timm_draws(monkeypatch):
    """Returns a function after which timm draws from the generator that it is given."""
    monkeypatch.setattr(ImageOps, "posterize", posterize)

    def draw_from(rng):
        source = Source(rng)
        for module in (timm_augment, timm_erasing):
            monkeypatch.setattr(module, "random", source)
        monkeypatch.setattr(timm_augment, "np", types.SimpleNamespace(random=source))

    return draw_from
