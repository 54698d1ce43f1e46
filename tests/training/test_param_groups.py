"""Learning rates and weight decays of single parameters: against timm, and in both layouts."""

import importlib

import jax
import numpy as np
import pytest
import torch

import vit_jax
from tests.models import swin_oracle, timm_oracle
from tests.training.test_optim import VIT, assert_same, draw, make_config, run
from vit_jax.errors import UserError
from vit_jax.models import stack_blocks
from vit_jax.training import param_groups, param_rules

timm_optim = importlib.import_module("timm.optim")
DECAY = 0.65
SMALL = dict(embed_dim=16, depth=3, num_heads=2, img_size=32, num_classes=5)
SWIN = dict(swin_oracle.TINY, depths=(2, 3), img_size=64, window_size=4)


def stack(tree):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, stack_blocks(tree))


def timms_scales(model):
    """Each tensor of timm's model filled with the factor of its learning rate."""
    model = model.double()
    groups = timm_optim.param_groups_layer_decay(model, layer_decay=DECAY)
    with torch.no_grad():
        for group in groups:
            for tensor in group["params"]:
                tensor.fill_(group["lr_scale"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    return timm_oracle.weights(model)


def our_scales(module, final_norm):
    """Each parameter filled with ours, unrolled."""
    image = jax.ShapeDtypeStruct((1, module.img_size, module.img_size, 3), "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    rules = param_rules.rules(shapes)
    factors = param_groups.layer_decay(DECAY, final_norm, module, rules)
    return jax.tree.map(lambda f, leaf: np.broadcast_to(f, leaf.shape), factors, shapes)


def check(module, theirs):
    """The same numbers, scanned and unrolled, but for where the final norm is counted."""
    unrolled = our_scales(module, "last_block")
    jax.tree.map(np.testing.assert_array_equal, unrolled, theirs)
    stacked = our_scales(module.clone(scan=True), "last_block")
    jax.tree.map(np.testing.assert_array_equal, stacked, stack(theirs))
    after = our_scales(module, "after")
    if "norm" in theirs:
        assert set(np.unique(after["norm"]["scale"])) == {1.0}
        after["norm"] = theirs["norm"]
    jax.tree.map(np.testing.assert_array_equal, after, theirs)
    assert len({float(x.flat[0]) for x in jax.tree.leaves(theirs)}) > 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_base_patch16_224", {}),
        ("vit_base_patch16_224", {"global_pool": "avg", "pre_norm": True}),
        ("vit_base_patch16_reg4_gap_256", {"init_values": 0.1}),
        ("vit_base_patch16_siglip_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
)
def test_layer_decay_of_a_vit_is_timms(name, options):
    theirs = timm_oracle.create_model(name, **SMALL, **options)
    module = vit_jax.create_model(
        name, **SMALL, **options, **({"patch_bias": False} if "pre_norm" in options else {})
    )
    check(module, timm_oracle.to_flax(timms_scales(theirs), 2, SMALL["depth"]))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_layer_decay_of_a_swin_is_timms(name):
    module = vit_jax.create_model(name, **SWIN)
    check(
        module, swin_oracle.from_timm(timms_scales(swin_oracle.create_model(name, **SWIN)), module)
    )


def test_layer_decay_is_that_of_beit_and_mae():
    # MAE, util/lr_decay.py: embeddings 0, block i i + 1, the rest depth + 1.
    module = vit_jax.create_model("vit_base_patch16_224", **SMALL)
    scales = our_scales(module, "after")
    for path, values in jax.tree.leaves_with_path(scales):
        names = [key.key for key in path]
        if names[0] in ("cls_token", "pos_embed", "patch_embed"):
            layer = 0
        elif names[0] == "encoder":
            layer = int(names[1].removeprefix("blocks_")) + 1
        else:
            layer = 4
        np.testing.assert_array_equal(values, DECAY ** (4 - layer))


# A tree of `test_optim`, as a module's.
MODULE = vit_jax.create_model(
    "vit_tiny_patch16_224", embed_dim=8, num_heads=2, depth=3, img_size=16, num_classes=5
)
EVERYTHING = dict(
    weight_decay=0.1,
    layer_decay=0.5,
    lr_scales=(("head/*", 10.0), ("encoder/blocks_1/mlp/*", 0.3)),
    weight_decays=(("cls_token", 0.7), ("encoder/blocks_[02]/attn/*", 0.0)),
)


def config_of(name, **settings):
    config = make_config(name)
    with config.unlocked():
        config.optim.update(settings)
    return config


def run_module(config, params, gradients):
    """`test_optim.run`, with the module whose layers are counted."""
    from vit_jax.training import optim

    with pytest.MonkeyPatch.context() as patch:
        make = optim.make_optimizer
        patch.setattr(
            "tests.training.test_optim.make_optimizer",
            lambda *args, **kwargs: make(*args, **kwargs, module=MODULE),
        )
        return run(config, params, gradients)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_ten_steps_scanned_are_those_unrolled(name):
    params, gradients = draw(VIT), [draw(VIT, seed) for seed in range(1, 11)]
    config = config_of(name, clip_norm=1.0, **EVERYTHING)
    unrolled = run_module(config, params, gradients)[-1]
    stacked = run_module(config, stack(params), [stack(g) for g in gradients])[-1]
    assert_same([stacked], [stack(unrolled)])


def test_each_parameter_has_its_own_rate_and_decay():
    """One step of SGD is -lr * factor * (gradient + decay * parameter), worked out by hand."""
    params, gradients = draw(VIT), draw(VIT, 1)
    after = run_module(config_of("sgd", **EVERYTHING), params, [gradients])[0]

    def expect(path, factor, decay):
        x, g, y = params, gradients, after
        for name in path.split("/"):
            x, g, y = x[name], g[name], y[name]
        np.testing.assert_allclose(y, x - 0.05 * factor * (g + decay * x), rtol=1e-12)

    expect("head/kernel", 10, 0.1)
    expect("head/bias", 10, 0)
    expect("cls_token", 0.5**4, 0.7)
    expect("patch_embed/kernel", 0.5**4, 0.1)
    expect("encoder/blocks_0/attn/qkv/kernel", 0.5**3, 0)
    expect("encoder/blocks_1/attn/qkv/kernel", 0.5**2, 0.1)
    expect("encoder/blocks_1/mlp/fc2/kernel", 0.3 * 0.5**2, 0.1)
    expect("encoder/blocks_2/norm1/scale", 0.5, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scales": (("haed/*", 2.0),)}, r"\(optim.lr_scales\) .*'haed/\*'.*'head/"),
        ({"weight_decays": (("encoder/blocks_3/*", 0.0),)}, "optim.weight_decays.*blocks_"),
        ({"lr_scales": ("head/*", 2.0)}, r"optim.lr_scales is .* pairs of a pattern"),
        ({"lr_scales": (("head/*", -1.0),)}, r"optim.lr_scales is .* 0 or more"),
        ({"layer_decay": 1.5}, "optim.layer_decay is 1.5; expected a number, 0 < x <= 1"),
        ({"layer_decay_norm": "head"}, "optim.layer_decay_norm is 'head'; expected one of 'after'"),
        ({"clip_norm": 1.0, "adaptive_clip": 0.01}, "both given; give one"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        run_module(config_of("adamw", **settings), draw(VIT), [])


def test_layer_decay_of_something_else_is_refused():
    params = draw({"decoder": {"kernel": (2, 2)}})
    with pytest.raises(UserError, match="unknown part of a VisionTransformer 'decoder'"):
        run_module(config_of("adamw", layer_decay=0.5), params, [])
    with pytest.raises(UserError, match="needs the model whose layers"):
        run(config_of("adamw", layer_decay=0.5), params, [])
