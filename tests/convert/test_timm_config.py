"""timm's folders whose config.json names what this library has under no name, or says too much."""

import json

import jax
import numpy as np
import pytest

import vit_jax
from tests.convert import cases
from vit_jax.convert import pretrained
from vit_jax.convert.validate import validate
from vit_jax.errors import UserError
from vit_jax.models import registry

GAP = "vit_little_patch16_reg4_gap_256"  # one of timm's that has no name here
BEIT = "beit_base_patch16_224"
SWIN = "swin_mine_patch4_window2_32"
TOWER = dict(img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=2)


def folder_of(path, name, **options):
    """A folder of timm's; returns it, the module in memory, and its configuration."""
    arguments = {**TOWER, "num_classes": 5, **options}
    theirs = cases.randomize(cases.timm.create_model(name, **arguments), cases.torch.float32)
    kept = {k: v for k, v in arguments.items() if k != "num_classes"}
    cases.timm.models.save_for_hf(theirs, path, model_args=kept, safe_serialization=True)
    return theirs


def change(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def ours(**options):
    return vit_jax.create_model(
        "vit_base_patch16_224",
        **{
            **TOWER,
            **dict(mlp_ratio=5.6, class_token=False, no_embed_class=True, reg_tokens=4),
            **dict(global_pool="avg", init_values=1e-5, num_classes=5),
            **options,
        },
    )


@pytest.mark.slow
def test_an_architecture_without_a_name_loads_as_the_model_that_is_given(tmp_path):
    assert GAP not in registry.list_models()
    folder_of(tmp_path, GAP)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError) as error:
            pretrained.load(path)
        assert f"architecture={GAP!r}, which is not registered here" in str(error.value)
        assert "--model-arg KEY=VALUE" in str(error.value)
        model, _ = pretrained.load(path, ours(num_classes=7, drop_path_rate=0.1))
        assert model.module == ours(drop_path_rate=0.1)  # the source has the number of classes
    assert validate(tmp_path, ours()).ok  # timm reads the folder by itself


def test_what_the_configuration_says_beside_it_counts(tmp_path):
    folder_of(tmp_path, GAP, drop_path_rate=0.3)
    model, _ = pretrained.load(tmp_path, ours())
    assert model.module.drop_path_rate == 0.3
    mean = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["mean"]
    assert list(vit_jax.pretrained_preprocessing(tmp_path, ours()).mean) == mean
    with pytest.raises(
        UserError, match=rf"it has global_pool='avg' \(the model has 'none'\).*{GAP}"
    ):
        pretrained.load(tmp_path, ours(global_pool="none", fc_norm=True))
    with pytest.raises(UserError, match=rf"depth=2 \(the model has 3\).*{GAP}"):
        pretrained.load(tmp_path, ours(depth=3))
    change(tmp_path, model_args={})  # as on the hub: the name says all of it
    assert pretrained.load(tmp_path, ours())[0].module == ours()


def test_candidates_are_those_of_the_tensors(tmp_path, monkeypatch):
    folder_of(tmp_path, "vit_base_patch16_224")
    change(tmp_path, architecture="vit_mine_patch16_32.of_mine")
    spec = registry.ModelSpec(type(ours()), TOWER, registry.Preprocessing())
    monkeypatch.setitem(registry._MODELS, "tower", spec)
    with pytest.raises(UserError, match=r"architecture='vit_mine_patch16_32'.* may be 'tower'"):
        pretrained.load(tmp_path)
    assert pretrained.load(tmp_path, "tower")[0].name == "tower"


def test_no_other_layout_claims_what_names_an_architecture(tmp_path):
    """BEiT has the names by which DeiT III is known."""
    folder_of(tmp_path, BEIT, init_values=0.1)
    for model in (None, ours()):
        with pytest.raises(UserError) as error:
            pretrained.load(tmp_path, model)
        assert f"architecture={BEIT!r}" in str(error.value)
        assert "deit3" not in str(error.value).split("nearest")[0]


def test_rates_and_how_weights_are_drawn_pass(tmp_path):
    folder_of(tmp_path, "vit_base_patch16_224")
    plain, _ = pretrained.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    more = dict(attn_drop_rate=0.2, weight_init="skip", fix_init=True)
    change(tmp_path, model_args={**config["model_args"], **more})
    model, _ = pretrained.load(tmp_path)
    assert model.module == plain.module.clone(attn_drop_rate=0.2)
    jax.tree.map(np.testing.assert_array_equal, model.params, plain.params)
    change(tmp_path, model_args={**config["model_args"], "dynamic_img_pad": True})
    with pytest.raises(UserError, match=r"\['dynamic_img_pad'\]"):
        pretrained.load(tmp_path)


SWIN_SIZES = dict(
    img_size=32, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=2
)


def swin_folder(path, name, **options):
    sizes = {**SWIN_SIZES, **options}
    theirs = cases.randomize(
        cases.timm.create_model(name, **sizes, num_classes=5), cases.torch.float32
    )
    cases.timm.models.save_for_hf(theirs, path, model_args=sizes, safe_serialization=True)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_arguments_of_swin_that_change_nothing(tmp_path, name):
    options = dict(always_partition=True, strict_img_size=False, drop_path_rate=0.0)
    swin_folder(tmp_path, name, **options)
    assert validate(tmp_path).ok  # timm heeds them
    config = json.loads((tmp_path / "config.json").read_text())
    change(tmp_path, model_args={**config["model_args"], "window_size": 4})  # the last map is 4 x 4
    with pytest.raises(UserError, match=r"always_partition is for grids larger.*\(4, 4\)"):
        pretrained.load(tmp_path)


def test_a_swin_without_a_name(tmp_path):
    assert SWIN not in registry.list_models()
    swin_folder(tmp_path, "swin_tiny_patch4_window7_224")
    change(tmp_path, architecture=SWIN)
    with pytest.raises(UserError, match=f"architecture={SWIN!r}, which is not registered"):
        pretrained.load(tmp_path)
    module = vit_jax.create_model("swin_tiny_patch4_window7_224", **SWIN_SIZES, num_classes=5)
    assert pretrained.load(tmp_path, module)[0].module == module
