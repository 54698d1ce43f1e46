"""Preprocessing in Transformers' configuration files, in both directions."""

from pathlib import Path

import pytest

from vit_jax.convert.layouts.base import Source
from vit_jax.convert.layouts.transformers_files import (
    read_preprocessing,
    share,
    write_preprocessing,
)
from vit_jax.models import Preprocessing

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.mark.parametrize("mode", ["center_floor", "squash"])
@pytest.mark.parametrize(
    "kept, edge",
    [(k, e) for k in (224, 384, 518) for e in (224, 248, 256, 354, 438, 518) if k <= e],
)
def test_preprocessing_out_and_in_again(kept, edge, mode):
    prep = Preprocessing(MEAN, STD, "bilinear", share(kept, edge), mode)
    written = write_preprocessing(prep, kept, "ViTImageProcessor")
    assert set(written["size"].values()) == {edge}
    assert read_preprocessing(Source(Path(), {}, None, written)) == prep


def test_processors_without_normalisation():
    processor = {"image_mean": MEAN, "image_std": STD, "do_normalize": False, "size": 224}
    processor["resample"] = 3
    prep = read_preprocessing(Source(Path(), {}, None, processor))
    assert (prep.mean, prep.std) == ((0.0,) * 3, (1.0,) * 3)
