"""Tokens that enter the first block equal Transformers' DINOv2, with registers and without.

Both put a position on the class token and none on the registers, and each resamples its own way.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax
from tests.models import timm_oracle as oracle  # before Transformers: it mends torchvision

transformers = pytest.importorskip("transformers")

SMALL = dict(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=4, patch_size=4, image_size=20
)
MODELS = {
    "with_registers": (
        "Dinov2WithRegistersModel",
        dict(num_register_tokens=3),
        dict(reg_tokens=3, no_embed_reg=True),
    ),
    "without": ("Dinov2Model", {}, dict(pos_resample="bicubic")),
}


def to_flax(embeddings):
    """Their parameters by our names."""
    weights = {name: p.detach().numpy() for name, p in embeddings.named_parameters()}
    params = {
        "cls_token": weights.pop("cls_token"),
        "pos_embed": {"table": weights.pop("position_embeddings")},
        "patch_embed": {
            "kernel": weights.pop("patch_embeddings.projection.weight").transpose(2, 3, 1, 0),
            "bias": weights.pop("patch_embeddings.projection.bias"),
        },
    }
    if "register_tokens" in weights:
        params["reg_token"] = weights.pop("register_tokens")
    assert set(weights) == {"mask_token"}  # of their training
    return params


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [(20, 20), (28, 12), (12, 40)])
def test_embedding_equals_transformers(model, size):
    kind, their_options, our_options = MODELS[model]
    config = getattr(transformers, kind.replace("Model", "Config"))(**SMALL, **their_options)
    theirs = oracle.randomize(getattr(transformers, kind)(config)).embeddings
    ours = vit_jax.create_model(
        "vit_small_patch14_dinov2",
        **dict(embed_dim=32, depth=1, num_heads=4, patch_size=4, img_size=20),
        **our_options,
        dynamic_img_size=True,
    )
    images = np.random.default_rng(1).normal(size=(2, *size, 3))
    with torch.no_grad():
        expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, to_flax(theirs))
        found, _ = ours.apply({"params": params}, jnp.asarray(images), method="embed")
    # Transformers resamples in float32, with samples off by up to 5 * 2^-24 of a pixel.
    bound = 1e-12 if size == (20, 20) else 1e-6
    assert oracle.worst_relative(np.asarray(found), expected)[0] <= bound
