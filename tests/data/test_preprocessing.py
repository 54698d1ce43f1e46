"""`preprocess` gives what torchvision, timm and Transformers give, and what evaluation feeds.

Pillow resizes on all sides, so nothing but the rounding of the normalisation may differ.
"""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from PIL import Image

import vit_jax
from tests.data.pictures import encode, natural, needs_photographs, photographs
from tests.models import timm_oracle  # noqa: F401 - makes torchvision importable without CUDA
from vit_jax.data import eval_transform, open_source
from vit_jax.data.preprocessing import described
from vit_jax.models import Preprocessing
from vit_jax.models.registry import IMAGENET_MEAN, IMAGENET_STD
from vit_jax.training.config import base_config
from vit_jax.training.experiment import Experiment
from vit_jax.training.resolve import resolve

# The issue allows one grey level of 255. Where no pixel differs, float32 is left: values up to 3
# in units of 0.22 * 255 grey levels, a few roundings of 2^-24 each.
SAME = 1e-4

IMAGENET = Preprocessing(IMAGENET_MEAN, IMAGENET_STD)
SHAPES = [(375, 500), (500, 375), (300, 1000), (97, 131), (211, 150)]  # two are enlarged
TARGETS = [224, 384, (192, 320), (300, 100)]


def grey_levels(found, expected, preprocessing):
    """The largest difference, in grey levels of 255."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs((found - expected) * np.asarray(preprocessing.std) * 255).max())


def pictures():
    """Arrays that are always there, then photographs where they are."""
    for i, shape in enumerate(SHAPES):
        yield natural(*shape, seed=i)


def photos(count):
    return [np.asarray(Image.open(path).convert("RGB")) for path in photographs(count)]


def by_timm(picture, preprocessing, size):
    from timm.data import create_transform

    transform = create_transform(
        (3, *((size, size) if isinstance(size, int) else size)),
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    return transform(Image.fromarray(picture)).numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", TARGETS)
def test_equals_timm(crop_mode, interpolation, crop_pct, size):
    choices = IMAGENET.mean, IMAGENET.std, interpolation, crop_pct, crop_mode
    preprocessing = Preprocessing(*choices)
    for picture in pictures():
        found = vit_jax.preprocess(picture, preprocessing, size)
        expected = by_timm(picture, preprocessing, size)
        assert grey_levels(found, expected, preprocessing) < SAME


@needs_photographs
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [224, 384, (192, 320)])
def test_photographs_equal_timm(crop_mode, size):
    for interpolation, crop_pct in (("bicubic", 0.9), ("bilinear", 0.875), ("bicubic", 1.0)):
        choices = IMAGENET.mean, IMAGENET.std, interpolation, crop_pct, crop_mode
        preprocessing = Preprocessing(*choices)
        for picture in photos(5):
            found = vit_jax.preprocess(picture, preprocessing, size)
            expected = by_timm(picture, preprocessing, size)
            assert grey_levels(found, expected, preprocessing) < SAME


@pytest.mark.parametrize("size", [224, 384])
def test_equals_torchvision_from_the_file(tmp_path, size):
    from torchvision import transforms as tv

    theirs = tv.Compose(
        [
            tv.Resize(256 * size // 224, tv.InterpolationMode.BILINEAR),
            tv.CenterCrop(size),
            tv.ToTensor(),
            tv.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    preprocessing = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear", 0.875)
    for i, picture in enumerate(pictures()):
        path = tmp_path / f"{i}.jpg"
        path.write_bytes(encode(picture, "JPEG", quality=92))
        with Image.open(path) as image:
            expected = theirs(image.convert("RGB")).numpy().transpose(1, 2, 0)
        found = vit_jax.preprocess(path, preprocessing, size)
        assert grey_levels(found, expected, preprocessing) < SAME


# Processor, its options beyond the normalisation, our preprocessing, the size.
TRANSFORMERS = {
    "vit": ("ViTImageProcessorPil", dict(resample=2), ("bilinear", 1.0, "squash"), 224),
    "vit_not_square": (
        "ViTImageProcessorPil",
        dict(resample=3, size=dict(height=192, width=320)),
        ("bicubic", 1.0, "squash"),
        (192, 320),
    ),
    "siglip": (
        "SiglipImageProcessorPil",
        dict(size=dict(height=384, width=384)),
        ("bicubic", 1.0, "squash"),
        384,
    ),
    "deit": ("DeiTImageProcessorPil", {}, ("bicubic", 224 / 256, "squash"), 224),
    "clip": ("CLIPImageProcessorPil", {}, ("bicubic", 1.0, "center_floor"), 224),
    "dinov2": (
        "BitImageProcessorPil",
        dict(size=dict(shortest_edge=256)),
        ("bicubic", 224 / 256, "center_floor"),
        224,
    ),
    "bilinear": (
        "BitImageProcessorPil",
        dict(size=dict(shortest_edge=439), crop_size=dict(height=384, width=384), resample=2),
        ("bilinear", 384 / 439, "center_floor"),
        384,
    ),
}


def check_transformers(case, picture):
    import transformers

    kind, options, choices, size = TRANSFORMERS[case]
    preprocessing = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, *choices)
    normalisation = dict(image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD))
    theirs = getattr(transformers, kind)(**options, **normalisation)
    (expected,) = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    found = vit_jax.preprocess(picture, preprocessing, size)
    assert grey_levels(found, expected.transpose(1, 2, 0), preprocessing) < SAME


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_equals_transformers(case):
    pytest.importorskip("transformers")
    for picture in pictures():
        check_transformers(case, picture)


@needs_photographs
@pytest.mark.parametrize("case", TRANSFORMERS)
def test_photographs_equal_transformers(case):
    pytest.importorskip("transformers")
    for picture in photos(8):
        check_transformers(case, picture)


def test_the_two_roundings_of_a_crop_differ_by_one_pixel():
    """Why "center_floor" is there: margins of 3 pixels lie 2 and 1 to the left."""
    picture = natural(224, 227)
    even, down = (
        vit_jax.preprocess(picture, Preprocessing(crop_pct=1.0, crop_mode=mode), 224)
        for mode in ("center", "center_floor")
    )
    np.testing.assert_array_equal(even[:, :-1], down[:, 1:])
    assert np.abs(even - down).max() * 0.5 * 255 > 1


@pytest.mark.parametrize("spec", [None, "resize"])
def test_it_is_what_evaluation_feeds(tmp_path, spec):
    """A run evaluates with the model's own preprocessing, or with what the configuration says."""
    path = tmp_path / "val" / "a" / "1.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(natural(90, 120), "JPEG"))
    config = base_config()
    config.total_steps = 1
    config.model.update(name="vit_small_patch8_224", img_size=32, depth=1)  # ImageNet's mean
    config.data.source = f"folder:{tmp_path}"
    config.data.batch_size = len(jax.devices())
    assert config.data.eval_transform is None
    config.data.eval_transform = spec
    experiment = Experiment(resolve(config, train_examples=100, classes=2))
    source = open_source(config.data.source, "val")
    with experiment.eval_batches(source) as batches:
        fed = jax.device_get(experiment.normalize(next(batches))["image"])[0]
    own = vit_jax.preprocessing(config.model.name)
    squashed = dataclasses.replace(own, crop_mode="squash", crop_pct=1.0)
    differences = [
        grey_levels(vit_jax.preprocess(path, preprocessing, 32), fed, own)
        for preprocessing in (own, squashed)
    ]
    expected, other = differences if spec is None else differences[::-1]
    assert expected < SAME
    assert other > 1


def test_every_form_of_a_picture_gives_the_same(tmp_path):
    """A file, its bytes, Pillow's view of it and its pixels, turned by EXIF included."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encode(natural(60, 90), "JPEG", exif=exif)
    path = tmp_path / "turned.jpg"
    path.write_bytes(data)
    expected = vit_jax.preprocess(str(path), IMAGENET, (64, 48))
    pixels = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_270))
    for form in (path, data, Image.open(path), Image.open(path).convert("RGB"), pixels):
        np.testing.assert_array_equal(vit_jax.preprocess(form, IMAGENET, (64, 48)), expected)
    assert expected.shape == (64, 48, 3)


def test_normalisation_is_by_channel():
    picture = np.full((8, 8, 3), (0, 128, 255), np.uint8)
    found = vit_jax.preprocess(picture, IMAGENET, 4)
    for channel, value in enumerate((0, 128 / 255, 1)):
        expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        np.testing.assert_allclose(found[..., channel], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("no/such/file.png", r"no picture at no/such/file\.png"),
        (b"text", "cannot decode the picture: it is not a JPEG"),
        (torch.zeros(3, 4, 4), "the picture is Tensor: expected a path, bytes, a Pillow image"),
        (np.zeros((4, 4, 3)), "of the picture: it is float64"),
        (Image.new("F", (4, 4)), "cannot decode the picture: pixels of mode 'F'"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        vit_jax.preprocess(picture, IMAGENET, 4)


def test_a_cut_file_is_refused_in_every_form(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encode(natural(60, 90), "JPEG")[:-400])
    for form in (path, path.read_bytes(), Image.open(path)):
        with pytest.raises(ValueError, match=r"cannot decode .*truncated"):
            vit_jax.preprocess(form, IMAGENET, 4)


def test_wrong_preprocessing_is_refused():
    with pytest.raises(ValueError, match="unknown crop_mode 'squish': did you mean 'squash'"):
        Preprocessing(crop_mode="squish")
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"crop_pct is 1.5: expected a number from 0.01 to 1"):
        vit_jax.preprocess(picture, Preprocessing(crop_pct=1.5), 4)
    with pytest.raises(ValueError, match="unknown interpolation 'cubic'"):
        vit_jax.preprocess(picture, Preprocessing(interpolation="cubic"), 4)
    with pytest.raises(ValueError, match="size is 0x4"):
        vit_jax.preprocess(picture, IMAGENET, (0, 4))


def test_specs():
    assert eval_transform(Preprocessing()) == "resize_small(0.9)|center_crop"
    assert eval_transform(Preprocessing(crop_pct=1.0, crop_mode="squash")) == (
        "resize(1.0)|center_crop"
    )


@pytest.mark.parametrize("mode", ["center", "center_floor", "squash"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_a_transform_is_described_by_what_makes_it(mode, crop_pct):
    prep = dataclasses.replace(IMAGENET, crop_mode=mode, crop_pct=crop_pct)
    assert described(eval_transform(prep), IMAGENET) == prep


def test_transforms_that_are_no_preprocessing_have_no_description():
    whole = dataclasses.replace(IMAGENET, crop_mode="squash", crop_pct=1.0)
    assert described("resize", IMAGENET) == whole
    for spec in ("resize(0.9)", "resize_pad", "resize_small", "flip|resize", "resize|resize"):
        assert described(spec, IMAGENET) is None
