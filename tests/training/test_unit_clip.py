"""Adaptive clipping against timm's, on timm's own tensors, for every shape a model has."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from tests.models import swin_oracle, timm_oracle
from tests.training.test_param_groups import SMALL, SWIN, stack
from vit_jax import create_model
from vit_jax.training import param_rules
from vit_jax.training.unit_clip import clip_by_unit_norm

agc = importlib.import_module("timm.utils.agc")
FACTOR, EPS = 0.2, 0.05


def clipped(params, gradients):
    with jax.enable_x64(True):
        params, gradients = (jax.tree.map(jnp.asarray, x) for x in (params, gradients))
        clip = clip_by_unit_norm(FACTOR, EPS, param_rules.rules(params))
        return jax.tree.map(np.asarray, clip.update(gradients, clip.init(params), params)[0])


def of_timm(theirs, to_flax):
    """Parameters, gradients and clipped gradients of timm's model, in our layout."""
    theirs = timm_oracle.randomize(theirs)
    generator = torch.Generator().manual_seed(1)
    for p in theirs.parameters():
        # Some units are clipped and some are not; some are smaller than EPS.
        size = torch.rand(p.shape[:1], generator=generator, dtype=torch.float64)
        size = size.reshape(-1, *(1,) * (p.ndim - 1))
        p.grad = size * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            p[: len(p) // 3] *= 1e-3
    params, before = (
        to_flax({k: np.array(v) for k, v in read(theirs).items()})
        for read in (timm_oracle.weights, timm_oracle.gradients)
    )
    headless = [p for name, p in theirs.named_parameters() if not name.startswith("head")]
    agc.adaptive_clip_grad(headless, clip_factor=FACTOR, eps=EPS)
    return params, before, to_flax(timm_oracle.gradients(theirs))


def assert_near(ours, theirs):
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=jax.tree_util.keystr(path))


def variants():
    from timm.layers import SwiGLUPacked

    swiglu = dict(mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, reg_tokens=2, qk_norm=True)
    return [
        ("vit_base_patch16_224", swiglu),
        ("vit_base_patch16_siglip_224", {}),
        ("vit_base_r26_s32_224", {}),
        ("deit_tiny_distilled_patch16_224", {"init_values": 0.1}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), variants(), ids=lambda x: x if str(x) == x else "")
def test_a_vit_is_clipped_as_by_timm(name, options):
    small = SMALL | {"img_size": 64} if "r26" in name else SMALL
    to_flax = functools.partial(timm_oracle.to_flax, heads=2, depth=SMALL["depth"])
    params, before, after = of_timm(timm_oracle.create_model(name, **small, **options), to_flax)
    ours = clipped(params, before)
    assert_near(ours, after)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after))))
    assert_near(clipped(stack(params), stack(before)), stack(ours))


def test_a_swin_is_clipped_as_by_timm_but_for_tables():
    """timm takes a table's rows for units, by its place in memory; here a table is one."""
    name = "swinv2_tiny_window8_256"
    module = create_model(name, **SWIN)
    to_flax = functools.partial(swin_oracle.from_timm, module=module)
    params, before, after = of_timm(swin_oracle.create_model(name, **SWIN), to_flax)
    ours = clipped(params, before)
    for stage in ("stages_0", "stages_1"):
        for block in [name for name in ours[stage] if name.startswith("blocks")]:
            del ours[stage][block]["attn"]["logit_scale"]
            del after[stage][block]["attn"]["logit_scale"]
    assert_near(ours, after)


def test_plain_matrices_and_convolutions_are_clipped_as_by_optax():
    rng = np.random.default_rng(0)
    shapes = {"fc": {"kernel": (6, 4), "bias": (4,)}, "conv": {"kernel": (3, 3, 4, 5)}}
    params, gradients = (
        jax.tree.map(lambda s: rng.normal(size=s), shapes, is_leaf=lambda x: isinstance(x, tuple))
        for _ in range(2)
    )
    theirs = optax.adaptive_grad_clip(FACTOR, EPS)
    with jax.enable_x64(True):
        expected = theirs.update(*(jax.tree.map(jnp.asarray, x) for x in (gradients, {}, params)))
    assert_near(clipped(params, gradients), expected[0])


def test_units_are_bounded():
    rng = np.random.default_rng(0)
    params = {"attn": {"qkv": {"kernel": rng.normal(size=(8, 3, 2, 4))}}}
    gradients = jax.tree.map(lambda x: 100 * rng.normal(size=x.shape), params)
    (after,), (weights,) = (jax.tree.leaves(x) for x in (clipped(params, gradients), params))
    norms = np.linalg.norm(after, axis=0)
    np.testing.assert_allclose(norms, FACTOR * np.linalg.norm(weights, axis=0))
