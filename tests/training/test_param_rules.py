import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer
from vit_jax.training import param_rules
from vit_jax.training.param_rules import Matrix, muon_matrix

# Every kind of parameter the family has: tokens, tables, gammas, norms of q and k, gated MLPs,
# attention pooling.
EVERYTHING = dict(
    img_size=8,
    patch_size=4,
    embed_dim=8,
    depth=2,
    num_heads=2,
    num_classes=3,
    reg_tokens=2,
    init_values=1e-5,
    qk_norm=True,
    mlp_layer="swiglu",
    global_pool="map",
)


def shapes(**overrides):
    module = vit_jax.create_model("vit_tiny_patch16_224", **{**EVERYTHING, **overrides})
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def rules_by_name(params):
    return {"/".join(rule.path): rule for rule in jax.tree.leaves(param_rules.rules(params))}


def test_only_weights_of_linear_maps_and_convolutions_decay():
    for scan in (False, True):
        rules = rules_by_name(shapes(scan=scan))
        decayed = {name for name, rule in rules.items() if rule.decayed}
        assert {name for name in rules if name.endswith("kernel")} == decayed
        exempt = {name.rsplit("/", 1)[-1] for name in set(rules) - decayed}
        # Names, not ranks: stacked biases are matrices and tokens have three axes.
        assert {"bias", "scale", "gamma", "cls_token", "reg_token", "latent"} <= exempt
        assert any("pos_embed" in name for name in set(rules) - decayed)


def test_scanned_blocks_are_stacks_and_unrolled_ones_are_not():
    assert not any(rule.stacked for rule in rules_by_name(shapes()).values())
    for name, rule in rules_by_name(shapes(scan=True)).items():
        assert rule.stacked == ("blocks/" in name)


def test_a_stack_treats_its_layers_as_unrolled_blocks_are_treated():
    unrolled, scanned = rules_by_name(shapes()), rules_by_name(shapes(scan=True))
    compared = 0
    for name, one in unrolled.items():
        if "blocks_0" not in name:
            continue
        stack = scanned[name.replace("blocks_0", "blocks")]
        assert stack.shape == (2, *one.shape) and stack.decayed == one.decayed
        matrix = muon_matrix(one)
        if matrix is not None:
            shifted = Matrix(
                *(tuple(i + 1 for i in axes) for axes in (matrix.inputs, matrix.outputs))
            )
            assert muon_matrix(stack) == shifted
            compared += 1
    assert compared == 4


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("patch_embed/kernel", (4 * 4 * 3, 8)),
        ("attn/qkv/kernel", (8, 8)),
        ("attn/proj/kernel", (8, 8)),
        ("mlp/fc2/kernel", None),
        ("attn_pool/q/kernel", (8, 8)),
        ("attn_pool/kv/kernel", (8, 8)),
        ("attn_pool/proj/kernel", (8, 8)),
    ],
)
def test_matrices_of_a_vit(name, sizes):
    found = [rule for key, rule in rules_by_name(shapes()).items() if key.endswith(name)]
    assert found
    for rule in found:
        matrix = muon_matrix(rule)
        if sizes is None:
            sizes = rule.shape
        assert matrix.sizes(rule.shape) == sizes


def test_muon_leaves_heads_tokens_tables_and_vectors_to_adam():
    for name, rule in rules_by_name(shapes()).items():
        is_matrix = muon_matrix(rule) is not None
        assert is_matrix == (name.endswith("kernel") and not name.startswith("head"))


@pytest.mark.slow
def test_every_model_of_the_family_has_rules():
    for name in vit_jax.list_models():
        module = vit_jax.create_model(name)
        if isinstance(module, VisionTransformer):  # every block has the same parameters
            module = module.clone(depth=1)
        if isinstance(module, SwinTransformer):
            module = module.clone(depths=(1,) * len(module.depths))
        image = jax.ShapeDtypeStruct((1, *np.broadcast_to(module.img_size, 2), 3), "float32")
        params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        for rule in jax.tree.leaves(param_rules.rules(params)):
            muon_matrix(rule)


def test_an_unknown_kernel_is_named():
    params = {"mystery": {"kernel": jax.ShapeDtypeStruct((2, 3, 4), "float32")}}
    rule = jax.tree.leaves(param_rules.rules(params))[0]
    with pytest.raises(ValueError, match="mystery/kernel"):
        muon_matrix(rule)


def test_a_stack_with_layers_of_unequal_number_is_refused():
    params = {
        "blocks": {
            "norm": {"scale": jax.ShapeDtypeStruct((3, 8), "float32")},
            "fc": {"bias": jax.ShapeDtypeStruct((4, 8), "float32")},
        }
    }
    with pytest.raises(ValueError, match="share a leading layers axis"):
        param_rules.rules(params)


def test_the_table_says_where_every_parameter_goes():
    params = shapes(scan=True)
    lines = param_rules.describe(params).splitlines()
    assert len(lines) == 1 + len(jax.tree.leaves(params))
    (qkv,) = [line for line in lines if "attn/qkv/kernel" in line]
    assert qkv.split()[1:] == ["2x8x3x2x4", "yes", "6", "of", "8x8"]
    (head,) = [line for line in lines if line.startswith("head/kernel")]
    assert head.split()[2:] == ["yes", "adam"]
