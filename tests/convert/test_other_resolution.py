"""At another size than a model was trained for, positions are resampled as its own library does."""

import functools

import jax
import numpy as np
import pytest

from tests.convert import cases
from vit_jax.convert import pretrained

torch = cases.torch
SIDE = 32  # a table of 4 x 4
SIZE = (24, 40)  # one axis is shorter, the other longer
SQUARE = dict(image_size=SIDE, num_hidden_layers=1)
# The model, and what of its output is ours.
MODELS = {
    "vit": (
        cases.hugging_face("ViTForImageClassification", "ViTConfig", **SQUARE, num_labels=5),
        lambda found: found.logits,
    ),
    "deit": (
        cases.hugging_face("DeiTForImageClassification", "DeiTConfig", **SQUARE, num_labels=5),
        lambda found: found.logits,
    ),
    "deit_with_teacher": (
        cases.hugging_face(
            "DeiTForImageClassificationWithTeacher", "DeiTConfig", **SQUARE, num_labels=5
        ),
        lambda found: found.logits,
    ),
    "clip": (
        cases.hugging_face(
            "CLIPVisionModelWithProjection", "CLIPVisionConfig", **SQUARE, projection_dim=5
        ),
        lambda found: found.image_embeds,
    ),
    "siglip": (
        cases.hugging_face("SiglipVisionModel", "SiglipVisionConfig", **SQUARE),
        lambda found: found.pooler_output,
    ),
    "vit_mae": (
        cases.hugging_face("ViTMAEModel", "ViTMAEConfig", **SQUARE, mask_ratio=0.0),
        lambda found: found.last_hidden_state[:, 0],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_interpolate_pos_encoding(tmp_path, name):
    make, output = MODELS[name]
    theirs = cases.saved(make)(tmp_path, torch.float64).theirs
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 3))
    options = {"noise": torch.arange(15.0).expand(2, -1)} if name == "vit_mae" else {}  # no shuffle
    with torch.no_grad():
        planes = torch.from_numpy(images.transpose(0, 3, 1, 2))
        expected = output(theirs(planes, interpolate_pos_encoding=True, **options)).numpy()
    load = functools.partial(pretrained.load, tmp_path, param_dtype="source", img_size=SIZE)
    model, _ = load()
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(model.module.apply)({"params": model.params}, images))
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-10
    antialiased = load(pos_resample="bicubic_antialias")[0].params["pos_embed"]["table"]
    assert np.abs(model.params["pos_embed"]["table"] - antialiased).max() > 1e-2
