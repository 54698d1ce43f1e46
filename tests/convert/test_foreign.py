"""Files without configuration that are no model of ours: what is said of them.

An error counts the tensors that match, names the first that do not and what the file is nearest to.
"""

import re

import numpy as np
import pytest

from tests.convert import cases, swin_cases
from tests.convert.cases import TINY, tiny_names  # noqa: F401 - a fixture that runs by itself
from vit_jax.convert import params, pretrained
from vit_jax.convert.layouts import LAYOUTS
from vit_jax.convert.mapping import MismatchError, outward
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.tensors import LazyTensor
from vit_jax.convert.writers import write_npz, write_safetensors, write_torch
from vit_jax.errors import UserError
from vit_jax.models import SwinTransformer, VisionTransformer, registry
from vit_jax.models.layers.position import sincos_table

torch, timm = cases.torch, cases.timm
SMALL = dict(embed_dim=64, depth=2, num_heads=1, img_size=32, num_classes=5)


@pytest.fixture(autouse=True)
def small_names(monkeypatch):
    """A name for models of these sizes, which is what the files below are nearest to."""
    ours = dict(SMALL, patch_size=16)
    spec = registry.ModelSpec(VisionTransformer, ours, registry.Preprocessing())
    monkeypatch.setitem(registry._MODELS, "small_vit", spec)
    for version, options in swin_cases.VERSIONS.items():
        options = dict(options, version=version, num_classes=5)
        spec = registry.ModelSpec(SwinTransformer, options, registry.Preprocessing())
        monkeypatch.setitem(registry._MODELS, f"tiny_swin{version}", spec)


def state_dict(name, **options):
    return timm.create_model(name, **{**SMALL, **options}).state_dict()


def original(tensors, **renamed):
    """With parts of the names replaced, as the authors of a family have them."""
    for ours, theirs in renamed.items():
        tensors = {k.replace(ours, theirs): v for k, v in tensors.items()}
    return tensors


def without(tensors, *parts):
    return {k: v for k, v in tensors.items() if not any(part in k for part in parts)}


def videomae():
    """Its patches are in time as well; biases of queries and values alone."""
    tensors = state_dict("vit_base_patch16_224")
    tensors["patch_embed.proj.weight"] = torch.ones(64, 3, 2, 16, 16)
    for i in range(SMALL["depth"]):
        bias = tensors.pop(f"blocks.{i}.attn.qkv.bias")
        tensors[f"blocks.{i}.attn.q_bias"] = tensors[f"blocks.{i}.attn.v_bias"] = bias[:64]
    return tensors


def blocks_with_a_gap():
    return {k.replace("blocks.1.", "blocks.7."): v for k, v in vit().items()}


def vit():
    return state_dict("vit_base_patch16_224")


def dinov2_without_positions():
    tensors = state_dict("vit_small_patch14_dinov2", patch_size=16)
    return {**without(tensors, "pos_embed"), "mask_token": torch.zeros(1, 64)}


# Each with a tensor that the message has to name.
FOREIGN = {
    "eva": (lambda: state_dict("eva_giant_patch14_224", patch_size=16), "blocks.0.attn.q_bias"),
    "eva02": (lambda: state_dict("eva02_base_patch14_224", patch_size=16), "blocks.0.mlp.fc1"),
    "beit": (lambda: state_dict("beit_base_patch16_224"), "blocks.0.attn.q_bias"),
    "cait": (lambda: state_dict("cait_xxs24_224"), "not the model's"),
    "dinov3": (lambda: state_dict("vit_small_patch16_dinov3"), "pos_embed"),
    "deit 3 without positions": (
        lambda: without(original(state_dict("deit3_base_patch16_224"), **{"ls1.gamma": "gamma_1"}),
                        "pos_embed"),
        "pos_embed",
    ),
    "dinov2 without positions": (dinov2_without_positions, "pos_embed"),
    "videomae": (videomae, "patch_embed.proj.weight"),
    "no patch embedding": (lambda: without(vit(), "patch_embed"), "patch_embed.proj.weight"),
    "no second layer": (lambda: without(vit(), "mlp.fc2"), "blocks.0.mlp.fc2.weight"),
    "blocks with a gap": (blocks_with_a_gap, "blocks.7"),
    "scalars": (lambda: {k: torch.ones(()) for k in vit()}, "patch_embed.proj.weight"),
}  # fmt: skip


@pytest.mark.parametrize("given", ["no name", "name"])
@pytest.mark.parametrize("family", FOREIGN)
def test_files_of_other_families(tmp_path, family, given):
    make, named = FOREIGN[family]
    tensors = make()
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(MismatchError) as error:
        pretrained.load(tmp_path / "x.pth", "small_vit" if given == "name" else None)
    text = str(error.value)
    assert str(tmp_path / "x.pth") in text and named in text
    count = re.search(r"(\d+) of (\d+) tensors match the model's \d+", text)
    assert int(count[1]) == error.value.matching and int(count[2]) == len(tensors)
    assert "'small_vit'" in text
    assert re.search(r"(missing|not the model's|other shapes) \(\d+\): ", text)


def test_a_file_that_is_one_of_ours_but_for_a_block(tmp_path):
    """What the name says is counted against that name, and what is nearer is told."""
    tensors = vit()
    tensors.update({k.replace("blocks.0", "blocks.2"): v for k, v in vit().items()})
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(MismatchError, match=r"depth=3 \(the model has 2\)") as error:
        pretrained.load(tmp_path / "x.pth", "small_vit")
    assert error.value.matching == len(vit())
    assert "not the model's (12): blocks.2" in str(error.value)


# The other layouts that go by names alone: whatever is missing or has other axes is told.


def tensors_of(layout, module):
    rng = np.random.default_rng(0)
    leaves = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in params.by_path(params.shapes_of(module)).items()
    }
    return {name: x.read() for name, x in outward(leaves, layout.write_table(module)).items()}


VIT = dict(TINY["tiny_vit"], img_size=16)
GOOGLE = dict(VIT, act_layer="gelu_tanh")
BARE = {
    ("timm", "vit"): VIT,
    ("deit3", "vit"): dict(VIT, init_values=1.0, no_embed_class=True),
    ("dinov2", "vit"): dict(VIT, init_values=1.0, num_classes=0),
    ("openai_clip", "clip"): TINY["tiny_clip"],
    ("augreg", "vit"): dict(GOOGLE, representation_size=9),
    ("augreg", "hybrid"): dict(GOOGLE, img_size=32, patch_size=1, resnet_layers=(1, 2)),
    ("big_vision", "vit"): dict(GOOGLE, class_token=False, global_pool="map", num_classes=0),
    ("mae", "vit"): dict(VIT, global_pool="avg", pos_embed="sincos_2d_table", num_classes=0),
    ("mae", "mae"): dict(
        VIT,
        pos_embed="sincos_2d_table",
        num_classes=0,
        global_pool="none",
        decoder_embed_dim=16,
        decoder_depth=2,
        decoder_num_heads=2,
    ),
    ("swin", "swin"): dict(swin_cases.VERSIONS[1], num_classes=5),
    ("timm", "swin"): dict(swin_cases.VERSIONS[2], num_classes=5, version=2),
}


@pytest.mark.parametrize("key", BARE, ids="-".join)
def test_no_tensor_whose_absence_or_axes_end_in_a_traceback(tmp_path, monkeypatch, key):
    """Each left out, and each as a scalar: an error that says so, or nothing is read from it."""
    family = "vit" if key[1] == "hybrid" else key[1]
    [layout] = [x for x in LAYOUTS if (x.name, x.family) == (key[0], family)]
    whole = tensors_of(layout, layout.module(**BARE[key]))
    if key == ("mae", "vit"):  # its positions say what it is
        whole["pos_embed"][0, 1:] = sincos_table("sincos_2d", (2, 2), cases.WIDTH)
    write_safetensors(tmp_path / "x.safetensors", whole)
    monkeypatch.setattr("vit_jax.convert.nearest.nearest", lambda source, layout: [])
    from vit_jax.convert import source

    opened = source.open_source(tmp_path / "x.safetensors")
    assert source.layout_of(opened) is layout
    scalar = LazyTensor((), np.dtype(np.float32), lambda: np.float32(0))
    first = [name for name in opened.tensors if not re.search(r"[.s_][1-9]", name)]
    for name in first:
        for kind in ("absent", "scalar"):
            tensors = {k: v for k, v in opened.tensors.items() if k != name}
            tensors |= {name: scalar} if kind == "scalar" else {}
            changed = source.Source(opened.path, tensors)
            try:
                source.identify(changed)
            except UserError as error:
                assert str(opened.path) in str(error), (name, kind)


# Bare files that hold something else, in each format.

WRITERS = {"x.safetensors": write_safetensors, "x.pth": write_torch, "x.npz": write_npz}


@pytest.mark.parametrize("file", WRITERS)
def test_two_of_two_hundred_tensors_match(tmp_path, file):
    """A bare file that is taken for what it is not, by a name that was given."""
    kind = "augreg" if file == "x.npz" else "timm"
    [layout] = [x for x in LAYOUTS if (x.name, x.family) == (kind, "vit")]
    whole = tensors_of(layout, layout.module(**(GOOGLE if kind == "augreg" else VIT)))
    told = ("patch_embed.proj.weight", "embedding/kernel", "norm1.weight", "pos_embedding")
    kept = {k: x for k, x in whole.items() if k.endswith(told) and ".1." not in k}
    strange = {f"layers.{i}.gain": np.ones(2, np.float32) for i in range(200 - len(kept))}
    WRITERS[file](tmp_path / file, {**kept, **strange})
    with pytest.raises(MismatchError) as error:
        pretrained.load(tmp_path / file, layout.module(**(GOOGLE if kind == "augreg" else VIT)))
    assert f"{error.value.matching} of 200 tensors match the model's" in str(error.value)
    assert error.value.matching == 2 == len(kept)
    assert "not the model's (198): layers.0.gain" in str(error.value)


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("damage", ["truncated", "magic", "empty"])
def test_damaged_bare_files(tmp_path, file, damage):
    """Through the door that a user takes; `test_read_tensors` has them byte by byte."""
    WRITERS[file](tmp_path / file, {"a": np.ones((8, 8), np.float32)})
    data = (tmp_path / file).read_bytes()
    changed = {"truncated": data[: len(data) // 2], "magic": b"\0" * 16 + data[16:], "empty": b""}
    (tmp_path / file).write_bytes(changed[damage])
    with pytest.raises(UserError, match=f"cannot read .*{file}: "):
        pretrained.load(tmp_path / file, "tiny_vit")


def test_parameters_that_are_no_floating_point_numbers(tmp_path):
    """By a name that is no weight's: a class token of integers, scales in eight bits."""
    import ml_dtypes

    [layout] = [x for x in LAYOUTS if (x.name, x.family) == ("timm", "vit")]
    whole = tensors_of(layout, layout.module(**VIT))
    for name, dtype in (("cls_token", np.int32), ("blocks.1.norm1.bias", ml_dtypes.float8_e4m3fn)):
        write_safetensors(tmp_path / "x.safetensors", {**whole, name: whole[name].astype(dtype)})
        assert read_tensors(tmp_path / "x.safetensors")[name].dtype == dtype
        module = layout.module(**VIT)
        with pytest.raises(MismatchError, match=rf"{name} is {np.dtype(dtype).name}"):
            pretrained.load(tmp_path / "x.safetensors", module)
