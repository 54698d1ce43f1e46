"""docs/add_a_model.md from top to bottom; and its MLP-Mixer is timm's."""

import jax
import numpy as np
import pytest

from tests.docs import markdown
from vit_jax.convert.torch_libraries import import_library

PAGE = "docs/add_a_model.md"


def test_the_page_from_top_to_bottom(checkout, call):
    names = markdown.run(PAGE, call)
    assert 18e6 < names["count"] < 19e6
    assert (checkout / "runs/mixer/checkpoints/3").is_dir()


def test_contradictions_are_refused(checkout, call):
    import vit_jax
    from vit_jax.errors import UserError

    markdown.write_files(PAGE, checkout)
    import mixer  # noqa: F401

    with pytest.raises(UserError, match="img_size=30 is not divisible by patch_size=4"):
        vit_jax.create_model("mixer_s16_224", img_size=30, patch_size=4)
    with pytest.raises(UserError, match="depth is 0"):
        vit_jax.create_model("mixer_s16_224", depth=0)


def test_it_is_timms(checkout):
    """Every tensor drawn, float64 on both sides."""
    torch, timm = import_library("torch", "this test"), import_library("timm", "this test")
    from timm.models.mlp_mixer import MlpMixer

    del timm
    markdown.write_files(PAGE, checkout)
    from mixer import Mixer

    torch.manual_seed(0)
    theirs = MlpMixer(
        img_size=16, patch_size=4, in_chans=3, num_classes=5, num_blocks=2, embed_dim=32,
        mlp_ratio=(0.25, 2.0),
    ).double()  # fmt: skip
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape))
    fields = dict(img_size=16, patch_size=4, num_classes=5, embed_dim=32, depth=2)
    ours = Mixer(**fields, tokens_dim=8, channels_dim=64)
    weights = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    with jax.enable_x64(True):
        logits = np.asarray(jax.jit(ours.apply)({"params": from_timm(weights)}, images))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(logits - expected).max() <= 1e-10 * np.abs(expected).max()


def from_timm(weights):
    """Our tree of timm's tensors."""

    def linear(name):
        return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def layer(name):
        mlps = {
            part: {fc: linear(f"{name}.{part}.{fc}") for fc in ("fc1", "fc2")}
            for part in ("mlp_tokens", "mlp_channels")
        }
        return mlps | {part: norm(f"{name}.{part}") for part in ("norm1", "norm2")}

    stem = {
        "kernel": weights["stem.proj.weight"].transpose(2, 3, 1, 0),
        "bias": weights["stem.proj.bias"],
    }
    ends = {"patch_embed": stem, "norm": norm("norm"), "head": linear("head")}
    return ends | {f"blocks_{i}": layer(f"blocks.{i}") for i in range(2)}
