"""Tiny models whose every parameter is drawn, and pictures in folders of classes."""

import jax
import numpy as np

from tests.data.pictures import encode, natural
from vit_jax import models
from vit_jax.convert import params
from vit_jax.convert.folder import Model
from vit_jax.models import Preprocessing

CLASSES = 6
VIT = dict(img_size=(8, 12), patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=CLASSES)
SWIN = dict(img_size=16, patch_size=2, embed_dim=4, depths=(1, 1), num_heads=(1, 1), window_size=2)
MAE = dict(VIT, num_classes=0, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
# Another crop and other statistics than those that a default would be.
PREPROCESSING = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", 0.8, "center_floor")
NAMES = ("a cat", "ein Fuß", "a", "b", "c", "d")


def drawn(name, preprocessing=PREPROCESSING, class_names=None, **options):
    module = models.create_model(name, **options)
    tree, rng = params.shapes_of(module), np.random.default_rng(0)
    tree = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tree)
    return Model(module, tree, preprocessing, class_names=class_names)


def vit(**options):
    names = options.pop("class_names", None)
    return drawn("vit_tiny_patch16_224", class_names=names, **{**VIT, **options})


def swin():
    return drawn("swin_tiny_patch4_window7_224", **SWIN, num_classes=CLASSES)


def resnet():
    options = dict(img_size=8, layers=(1,), width=32, stem="small", num_classes=CLASSES)
    return drawn("resnetv2_50x1_bit", **options)


def mae():
    return drawn("mae_vit_base_patch16", **MAE)


SHAPES = [(20, 30), (30, 20), (9, 40), (16, 16), (8, 12), (31, 17), (25, 25)]


def write_pictures(folder):
    """Seven pictures in two folders of classes, one of them in a folder further down."""
    for i, shape in enumerate(SHAPES):
        place = folder / ("dogs/small" if i == 3 else "dogs" if i % 2 else "cats")
        place.mkdir(parents=True, exist_ok=True)
        format = ("PNG", "JPEG")[i % 2]
        (place / f"{i}.{format.lower()}").write_bytes(encode(natural(*shape, seed=i), format))
    return folder
