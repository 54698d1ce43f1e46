"""Each layout's table is one to one, and a file that does not fit is never a success."""

import dataclasses
import json
import math
import re

import ml_dtypes
import numpy as np
import pytest

from tests.convert import cases
from tests.convert.cases import tiny_names  # noqa: F401 - a fixture that runs by itself
from vit_jax.convert import params, pretrained
from vit_jax.convert.folder import save
from vit_jax.convert.layouts import LAYOUTS
from vit_jax.convert.layouts.base import differing, width_ratio
from vit_jax.convert.mapping import MismatchError, expected_shapes
from vit_jax.convert.writers import write_safetensors
from vit_jax.errors import UserError
from vit_jax.models import registry

torch = cases.torch

VIT = dict(cases.OURS, img_size=16)
TOWER = dict(VIT, class_token=False, global_pool="map", num_classes=0)
PARALLEL = dict(VIT, parallel_block=True, norm_layer="rmsnorm", qk_norm=True)
GOOGLE = dict(act_layer="gelu_tanh")
SWIN = dict(img_size=32, window_size=4, embed_dim=8, depths=(2, 1), num_heads=(2, 4), num_classes=5)
SECOND = dict(SWIN, version=2, pretrained_window_sizes=(3, 2))
MAE = dict(TOWER, class_token=True, global_pool="none", pos_embed="sincos_2d_table")
MAE.update(decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
RESNET = dict(img_size=32, layers=(2, 1), width=32, num_classes=5)
# Modules that stand for what each layout holds.
REPRESENTATIVES = {
    ("transformers", "vit"): [
        VIT,
        dict(VIT, qkv_bias=False, representation_size=9, num_classes=0),
    ],
    ("transformers", "deit"): [dict(VIT, dist_token=True), dict(VIT, reg_tokens=1)],
    ("transformers", "dinov2"): [
        dict(VIT, init_values=1.0),
        dict(VIT, init_values=1.0, mlp_layer="swiglu", act_layer="silu", global_pool="token_avg"),
    ],
    ("transformers", "dinov2_with_registers"): [
        dict(VIT, init_values=1.0, reg_tokens=4, no_embed_reg=True, num_classes=0)
    ],
    ("transformers", "clip"): [dict(VIT, pre_norm=True, patch_bias=False, head_bias=False)],
    ("transformers", "siglip"): [TOWER, dict(TOWER, global_pool="none")],
    ("openai_clip", "clip"): [dict(VIT, pre_norm=True, patch_bias=False, head_bias=False)],
    ("augreg", "vit"): [
        dict(VIT, **GOOGLE, representation_size=9),
        dict(VIT, **GOOGLE, img_size=32, patch_size=1, resnet_layers=(1, 2)),
    ],
    ("big_vision", "vit"): [dict(TOWER, **GOOGLE), dict(VIT, **GOOGLE, no_embed_class=True)],
    ("dinov2", "vit"): [
        dict(VIT, init_values=1.0, reg_tokens=4, no_embed_reg=True, num_classes=0),
        dict(VIT, init_values=1.0, num_classes=0, mlp_layer="swiglu", act_layer="silu"),
    ],
    ("transformers", "vit_mae"): [MAE, dict(MAE, qkv_bias=False)],
    ("transformers", "vit_mae_encoder"): [dict(VIT, num_classes=0, pos_embed="sincos_2d_table")],
    ("mae", "mae"): [MAE],
    ("mae", "vit"): [
        dict(VIT, num_classes=0, pos_embed="sincos_2d_table"),
        dict(VIT, global_pool="avg"),
    ],
    ("transformers", "swin"): [SWIN, dict(SWIN, qkv_bias=False, num_classes=0)],
    ("transformers", "swinv2"): [SECOND, dict(SECOND, qkv_bias=False, num_classes=0)],
    ("swin", "swin"): [SWIN, SECOND],
    ("timm", "swin"): [SWIN, SECOND],
    ("timm", "resnet"): [dict(RESNET), dict(RESNET, num_classes=0)],
    ("deit3", "vit"): [dict(VIT, init_values=1.0, no_embed_class=True)],
    ("timm", "vit"): [
        dict(VIT, init_values=1.0, reg_tokens=4, qk_norm=True, pre_norm=True, fc_norm=True),
        dict(VIT, dist_token=True),
        dict(TOWER, proj_bias=False),
        dict(PARALLEL, init_values=1.0),
        dict(PARALLEL, qkv_bias=False, norm_layer="layernorm"),
        dict(VIT, img_size=32, patch_size=1, resnet_layers=(1, 2)),
        dict(VIT, mlp_layer="swiglu", act_layer="silu"),
    ],
}
PAIRS = [
    pytest.param(layout, options, id=f"{layout.name}-{layout.family}-{i}")
    for layout in LAYOUTS
    for i, options in enumerate(REPRESENTATIVES.get((layout.name, layout.family), []))
]


def test_every_layout_is_represented():
    assert {(x.name, x.family) for x in LAYOUTS} == set(REPRESENTATIVES)


@pytest.mark.parametrize("layout, options", PAIRS)
def test_tables_are_one_to_one(layout, options):
    """Every parameter once, every tensor once, and as many numbers on either side."""
    module = layout.module(**options)
    assert layout.expresses(module)
    leaves = params.by_path(params.shapes_of(module))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    table = layout.write_table(module)
    expected = expected_shapes(table, shapes)
    constants = {constant.source for constant in table.constants}
    numbers = [math.prod(shape) for name, shape in expected.items() if name not in constants]
    assert sum(numbers) == sum(map(math.prod, shapes.values()))
    assert set(expected) - constants == {name for rule in table.rules for name in rule.sources}


@pytest.mark.parametrize("hidden", range(1, 400, 7))
@pytest.mark.parametrize("width", [7, 48, 384])
def test_the_ratio_gives_the_width_back(hidden, width):
    assert int(width * width_ratio(hidden, width)) == hidden


# Files that do not fit


@pytest.fixture
def folder(tmp_path):
    """A folder of timm."""
    cases.CASES["timm_vit"](tmp_path, torch.float32)
    return tmp_path


def tensors_of(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_two_of_two_hundred_tensors_match(folder):
    whole = tensors_of(folder)
    kept = {name: whole[name] for name in ("head.weight", "norm.weight")}
    strange = {f"layers.{i}.weight": np.ones(2, np.float32) for i in range(198)}
    write_safetensors(folder / "model.safetensors", {**kept, **strange})
    with pytest.raises(MismatchError) as error:
        pretrained.load(folder)
    assert error.value.matching == 2
    text = str(error.value)
    assert text.startswith(f"2 of 200 tensors match the model's {len(whole)}")
    assert "missing" in text and "patch_embed.proj.weight" in text
    assert "not the model's (198): layers.0.weight" in text and "and 193 more" in text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.pop("norm.bias"), r"missing \(1\): norm.bias"),
        (lambda x: x.update(extra=x["norm.bias"]), r"not the model's \(1\): extra"),
        (
            lambda x: x.update({"norm.bias": x["norm.bias"][:-1]}),
            r"other shapes \(1\): norm.bias is \(127,\), expected \(128,\)",
        ),
    ],
)
def test_one_tensor_is_wrong(folder, change, message):
    tensors = tensors_of(folder)
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(MismatchError, match=message):
        pretrained.load(folder)


def test_nan_is_warned_about(folder):
    tensors = tensors_of(folder)
    for name in ("norm.bias", "head.weight"):
        tensors[name] = np.where(np.arange(tensors[name].shape[-1]) == 1, np.nan, tensors[name])
    tensors["head.bias"] = tensors["head.bias"] * np.inf
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.warns(UserWarning, match="3 tensors hold NaN or infinity: .*norm.bias"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("dtype", "stored", "largest"),
    [("float16", np.float32, 70000), ("float16", ml_dtypes.bfloat16, 1e10),
     ("bfloat16", np.float32, 3.4e38)],
)  # fmt: skip
def test_numbers_too_large_for_the_dtype_are_named(folder, tmp_path, dtype, stored, largest):
    tensors = {name: x.astype(stored) for name, x in tensors_of(folder).items()}
    tensors["norm.bias"][3] = -largest
    tensors["norm.bias"][4] = np.inf  # was never a number: it is warned about, and stays
    write_safetensors(folder / "model.safetensors", tensors)
    magnitude = f"{float(np.abs(tensors['norm.bias'][3])):.6g}".replace("+", r"\+")
    told = (
        rf"norm.bias has a number of magnitude {magnitude}, .* infinity in {dtype}: .*param_dtype"
    )
    with pytest.raises(UserError, match=told):
        pretrained.load(folder, param_dtype=dtype)
    with pytest.warns(UserWarning, match="1 tensors hold NaN or infinity"):
        model, _ = pretrained.load(folder, param_dtype="source")
    save(tmp_path / "converted", model)
    with pytest.raises(UserError, match=told.replace("norm.bias", "norm/bias")):
        pretrained.load(tmp_path / "converted", param_dtype=dtype)


def test_the_largest_number_of_a_dtype_fits(folder):
    tensors = tensors_of(folder)
    tensors["norm.bias"][:2] = 65504, 65519  # the second is rounded down to the first
    write_safetensors(folder / "model.safetensors", tensors)
    model, _ = pretrained.load(folder, param_dtype="float16")
    np.testing.assert_array_equal(model.params["norm"]["bias"][:2], 65504)


def test_float64_is_not_rounded_silently(folder):
    wide = {name: x.astype(np.float64) for name, x in tensors_of(folder).items()}
    write_safetensors(folder / "model.safetensors", wide)
    with pytest.raises(UserError, match="holds float64, which float32 would round"):
        pretrained.load(folder)
    model, _ = pretrained.load(folder, param_dtype="source")
    assert model.module.param_dtype == np.float64
    with pytest.raises(UserError, match="jax_enable_x64"):
        pretrained.from_pretrained(folder, param_dtype="source")


def test_the_wrong_name_is_answered_with_the_likely_one(tmp_path):
    case = cases.CASES["original_deit_distilled"](tmp_path, torch.float32)
    with pytest.raises(UserError) as error:
        pretrained.load(case.path, model="tiny_vit")
    assert "is not 'tiny_vit'" in str(error.value)
    assert "dist_token=True (the model has False)" in str(error.value)
    assert "'tiny_distilled'" in str(error.value)
    with pytest.raises(UserError, match=r"embed_dim=128 \(the model has 768\)") as error:
        pretrained.load(case.path, model="vit_base_patch16_224")
    told = re.findall(r"(\w+)=(\S+) \(the model has ([^)]+)\)", str(error.value))
    assert told and all(theirs != ours for _, theirs, ours in told)


def test_only_what_differs_is_told():
    """Not what comes to something else because another hyper-parameter differs."""
    small, large = (cases.VisionTransformer(embed_dim=d, num_heads=2) for d in (64, 128))
    assert differing(small, large) == {"embed_dim": (64, 128)}
    token, mean = (cases.VisionTransformer(global_pool=pool) for pool in ("token", "avg"))
    assert differing(token, mean) == {"global_pool": ("token", "avg")}
    same = cases.VisionTransformer(global_pool="avg", fc_norm=True)
    assert differing(mean, same) == {}


def test_other_shapes_are_answered_with_the_likely_name(tmp_path, monkeypatch):
    """The size of the images shows in the position table alone, which is no hyper-parameter."""
    case = cases.CASES["original_deit"](tmp_path, torch.float32)
    spec = registry.model_spec("tiny_vit")
    other = dataclasses.replace(spec, hyper_parameters={**spec.hyper_parameters, "img_size": 64})
    monkeypatch.setitem(registry._MODELS, "larger_images", other)
    with pytest.raises(MismatchError, match=r"other shapes \(1\): pos_embed is") as error:
        pretrained.load(case.path, model="larger_images")
    assert f"{case.path} has names of the layout 'timm' (vit)" in str(error.value)
    assert "by its tensors it may be" in str(error.value) and "'tiny_vit'" in str(error.value)


def test_a_file_that_does_not_say_what_it_is(tmp_path):
    case = cases.CASES["original_deit_distilled"](tmp_path, torch.float32)
    with pytest.raises(UserError, match=r"does not say which model.*'tiny_distilled'"):
        pretrained.load(case.path)


def test_a_layout_that_nobody_knows(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"conv1.weight": np.ones((2, 2))})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(UserError) as error:
        pretrained.load(tmp_path)
    assert "'model_type': 'resnet'" in str(error.value) and "'conv1.weight'" in str(error.value)


def test_other_activations_and_norms_are_refused(tmp_path):
    case = cases.CASES["vit_classifier"](tmp_path, torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "mish"}))
    with pytest.raises(UserError, match=r'hidden_act="mish" in .*config\.json: .*gelu'):
        pretrained.load(case.path)
