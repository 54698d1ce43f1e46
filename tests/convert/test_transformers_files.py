"""Preprocessing in Transformers' configuration files, in both directions."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vit_jax
from tests.data.pictures import natural
from vit_jax.convert.layouts import transformers_vit
from vit_jax.convert.layouts.base import Source
from vit_jax.convert.layouts.transformers_files import (
    read_preprocessing,
    share,
    write_preprocessing,
)
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError
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
    processor = {"image_mean": MEAN, "image_std": STD, "do_normalize": False}
    processor["size"] = {"height": 224, "width": 224}
    processor["resample"] = 3
    prep = read_preprocessing(Source(Path(), {}, None, processor))
    assert (prep.mean, prep.std) == ((0.0,) * 3, (1.0,) * 3)


# What a file of pictures has, as those on the hub with one number for a size.
PUBLIC = dict(do_normalize=True, do_resize=True, image_mean=[0.1, 0.2, 0.3], image_std=[0.4] * 3)
PUBLIC.update(resample=2)
CROPPED = dict(PUBLIC, resample=3, do_center_crop=True, crop_size=48)
# The file, the model's type where the file has no processor's, the side that pictures come to.
NUMBERS = {
    "vit_feature_extractor": (dict(PUBLIC, feature_extractor_type="ViTFeatureExtractor"), "", 56),
    "vit": (dict(PUBLIC, image_processor_type="ViTImageProcessor"), "", 56),
    "vit_fast": (dict(PUBLIC, image_processor_type="ViTImageProcessorFast"), "", 56),
    "deit_feature_extractor": (
        dict(CROPPED, feature_extractor_type="DeiTFeatureExtractor"),
        "",
        48,
    ),
    "deit": (dict(CROPPED, image_processor_type="DeiTImageProcessor"), "", 48),
    "clip_feature_extractor": (
        dict(CROPPED, feature_extractor_type="CLIPFeatureExtractor"),
        "",
        48,
    ),
    "clip": (dict(CROPPED, image_processor_type="CLIPImageProcessor"), "", 48),
    "bit": (dict(CROPPED, image_processor_type="BitImageProcessor"), "", 48),
    "vit_by_model": (PUBLIC, "vit", 56),
    "vit_mae_by_model": (PUBLIC, "vit_mae", 56),
    "swin_by_model": (PUBLIC, "swin", 56),
    "deit_by_model": (CROPPED, "deit", 48),
    "clip_by_model": (CROPPED, "clip", 48),
    "dinov2_by_model": (CROPPED, "dinov2", 48),
}


@pytest.mark.parametrize("case", NUMBERS)
@pytest.mark.parametrize("shape", [(150, 90), (90, 150)])
def test_one_number_is_what_it_is_to_transformers(tmp_path, case, shape):
    pytest.importorskip("transformers")
    transformers = import_library("transformers", "this test")
    processor, model_type, side = NUMBERS[case]
    processor = {**processor, "size": 56}
    config = {"model_type": model_type} if model_type else None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "config.json").write_text(json.dumps(config or {}))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    picture = natural(*shape)
    (expected,) = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    prep = read_preprocessing(Source(tmp_path, {}, config, processor))
    found = vit_jax.preprocess(picture, prep, side)
    levels = (found - expected.transpose(1, 2, 0)) * np.asarray(prep.std) * 255
    assert np.abs(levels).max() < 1


@pytest.mark.parametrize(
    ("said", "config", "message"),
    [
        (dict(image_processor_type="SiglipImageProcessor"), None, "of SiglipImageProcessor: write"),
        (dict(feature_extractor_type="OwnFeatureExtractor"), None, "of OwnFeatureExtractor"),
        (dict(image_processor_type="ViT"), None, "of ViT: "),
        ({}, {"model_type": "siglip"}, "for model_type='siglip'"),
        ({}, None, "for model_type=''"),
    ],
)
def test_one_number_of_an_unknown_processor_is_refused(said, config, message):
    source = Source(Path(), {}, config, {**PUBLIC, **said, "size": 56})
    with pytest.raises(UserError, match=message) as error:
        read_preprocessing(source)
    assert "size=56 in preprocessor_config.json" in str(error.value)
    for form in ('{"height": ..., "width": ...}', '{"shortest_edge": ...}'):
        assert form in str(error.value)
    for side in (dict(height=56, width=56), dict(shortest_edge=56)):
        source.processor["size"] = side
        assert read_preprocessing(source).crop_pct == 1


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_what_is_usual_is_transformers_default(kind):
    """But for colours: DeiT's files all have ImageNet's statistics, and its class others."""
    pytest.importorskip("transformers")
    transformers = import_library("transformers", "this test")
    title = {"vit": "ViT", "deit": "DeiT"}[kind]
    usual = transformers_vit.USUAL[kind]
    colours = dict(image_mean=list(usual.mean), image_std=list(usual.std))
    theirs = getattr(transformers, f"{title}ImageProcessorPil")(**colours)
    picture = natural(150, 90)
    (expected,) = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    levels = vit_jax.preprocess(picture, usual, 224) - expected.transpose(1, 2, 0)
    assert np.abs(levels * np.asarray(usual.std) * 255).max() < 1
