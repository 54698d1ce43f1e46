"""Pictures made for the tests, real photographs where the shared data is there, toy sources."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.sources import Source

SHARED = pathlib.Path(
    os.environ.get("VIT_JAX_TEST_DATA", pathlib.Path(__file__).parents[2] / "../shared/data")
)
needs_photographs = pytest.mark.skipif(
    not (SHARED / "imagenet_samples/images").is_dir(),
    reason=f"no photographs in {SHARED}: set VIT_JAX_TEST_DATA",
)


def photographs(count):
    """The first few ImageNet JPEGs."""
    return sorted((SHARED / "imagenet_samples/images").iterdir())[:count]


def smooth(height, width, seed=0):
    """A colour picture without sharp edges, which JPEG changes little."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def natural(height, width, seed=0):
    """A colour picture with what photographs have: a 1/f spectrum, hard edges, black and white."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    noise = np.fft.fft2(rng.normal(size=(3, height, width)))
    texture = np.fft.ifft2(noise / np.maximum(np.hypot(y, x), 1 / max(height, width))).real
    texture /= texture.std(axis=(1, 2), keepdims=True)
    texture[:, height // 3 :, : width // 2] += 3.0  # runs into white
    texture[:, : height // 2, 2 * width // 3 :] *= -0.3
    texture[:, height // 5 : height // 5 + 2] = -9.0  # a black wire
    return np.clip(128 + 50 * texture, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def encode(picture, format="PNG", **options):
    """An array or Pillow image as a file's bytes."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, format, **options)
    return file.getvalue()


class ListSource(Source):
    """A source of PNGs in memory whose pixels tell the index; some may be damaged."""

    def __init__(self, length, size=(8, 8), bad=(), labels=None, num_classes=10):
        self._pictures = [
            b"damaged" if i in bad else encode(smooth(*size, seed=i)) for i in range(length)
        ]
        self._labels = labels or [i % num_classes for i in range(length)]
        self.class_names = tuple(str(c) for c in range(num_classes))
        self.fingerprint = f"list:{length}"
        self.reads = 0

    def __len__(self):
        return len(self._pictures)

    def __getitem__(self, index):
        self.reads += 1
        return {
            "image": self._pictures[index],
            "label": self._labels[index],
            "name": f"picture {index}",
        }


def photograph():
    """Colours (213, 320, 3) of a photograph that comes with scikit-learn."""
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg")[::2, ::2])
