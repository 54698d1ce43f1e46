"""What a source is of, and how its images are prepared, where it says little or says it oddly."""

import json

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.cli import main as cli
from vit_jax.convert import folder, params, pretrained
from vit_jax.convert.convert import convert
from vit_jax.convert.export import export
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts import LAYOUTS
from vit_jax.convert.mapping import outward
from vit_jax.convert.writers import write_safetensors
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.registry import CLIP, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TINY = dict(img_size=16, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0)
ODD = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.8, "center")


def model_of(name, **options):
    """A model with random parameters."""
    module = vit_jax.create_model(name, **{**TINY, **options})
    rng = np.random.default_rng(0)
    tree = jax.tree.map(
        lambda leaf: rng.normal(0.2, 0.3, leaf.shape).astype(np.float32), params.shapes_of(module)
    )
    return Model(module, tree, ODD)


def bare(path, layout, model):
    """A file without any configuration, in a layout by its name."""
    [table] = [
        x.write_table(model.module)
        for x in LAYOUTS
        if (x.name, x.module) == (layout, type(model.module))
    ]
    write_safetensors(path, outward(params.by_path(model.params), table))
    return path


DEIT3 = dict(no_embed_class=True, init_values=1e-6)
BARE = {
    "dinov2": (
        "vit_small_patch14_dinov2",
        dict(patch_size=8, pos_resample="bicubic_offset"),
        0.875,
    ),
    "deit3": ("deit3_small_patch16_224", DEIT3, 1.0),
}


@pytest.mark.parametrize("layout", BARE)
def test_files_of_imagenet_models_have_its_statistics(tmp_path, layout):
    name, options, crop_pct = BARE[layout]
    path = bare(tmp_path / "x.safetensors", layout, model_of(name, **options))
    found = vit_jax.pretrained_preprocessing(path)
    assert found == Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic", crop_pct, "center")


def exported(tmp_path, name, format="transformers", **options):
    model = model_of(name, **options)
    export(model, tmp_path / "out", format)
    return model, tmp_path / "out"


def test_clip_without_a_processor_has_its_own_statistics(tmp_path):
    _, path = exported(tmp_path, "vit_base_patch16_clip_224", num_classes=5, head_bias=False)
    assert vit_jax.pretrained_preprocessing(path).mean == ODD.mean
    (path / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="does not say how images are prepared.*0.4814"):
        found = vit_jax.pretrained_preprocessing(path)
    assert (found.mean, found.std, found.crop_pct) == (CLIP.mean, CLIP.std, 1.0)


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ({"rescale_factor": 1 / 127.5}, 0.5),
        ({"do_rescale": False}, 1 / 255),
        ({"do_rescale": False, "rescale_factor": 7}, 1 / 255),
    ],
)
def test_another_scale_of_pixels_is_another_mean_and_std(tmp_path, said, scale):
    """(factor * pixel - mean) / std is the same in our terms, pixel / 255."""
    _, path = exported(tmp_path, "vit_base_patch16_224")
    file = path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    found = vit_jax.pretrained_preprocessing(path)
    np.testing.assert_allclose(found.mean, np.multiply(ODD.mean, scale), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.multiply(ODD.std, scale), rtol=1e-12)


def test_pictures_that_are_not_resized_are_refused(tmp_path):
    _, path = exported(tmp_path, "vit_base_patch16_224")
    file = path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_resize": False}))
    with pytest.raises(UserError, match=r"do_resize=false in .*preprocessor_config"):
        vit_jax.from_pretrained(path)


def test_timms_architecture_is_the_name(tmp_path, monkeypatch):
    model, path = exported(tmp_path, "vit_base_patch16_224", "timm")
    assert pretrained.load(path)[0].name is None  # no name has these sizes
    monkeypatch.setitem(
        registry._MODELS,
        "tiny",
        registry.ModelSpec(type(model.module), TINY, Preprocessing()),
    )
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architecture": "tiny.of_mine"}))
    assert pretrained.load(path)[0].name == "tiny"


def test_a_name_stands_for_sizes_and_the_source_for_what_libraries_differ_in(tmp_path, capsys):
    small = dict(embed_dim=384, depth=12, num_heads=6, img_size=224, patch_size=16)
    _, path = exported(
        tmp_path, "vit_small_patch16_224", norm_eps=1e-12, act_layer="gelu_tanh", **small
    )
    name = "vit_small_patch16_224"
    found = convert(tmp_path / "converted", path, model=name)
    assert found.name == name
    assert (found.module.norm_eps, found.module.act_layer) == (1e-12, "gelu_tanh")
    printed = capsys.readouterr().out
    assert f"{name} with act_layer=gelu_tanh with norm_eps=1e-12 of layout transformers" in printed
    again, _ = pretrained.load(tmp_path / "converted", name)
    assert again.module == found.module
    with pytest.raises(UserError, match=r"not 'vit_base_patch16_224': depth=12|embed_dim=384"):
        pretrained.load(tmp_path / "converted", "vit_base_patch16_224")
    with pytest.raises(UserError, match="embed_dim=384"):
        pretrained.load(path, "vit_base_patch16_224")


def test_a_converted_folder_without_a_name_takes_the_one_that_fits(tmp_path):
    model = model_of("vit_small_patch16_224", embed_dim=384, num_heads=6)
    folder.save(tmp_path / "out", model)
    with pytest.raises(UserError, match="img_size=16"):
        pretrained.load(tmp_path / "out", "vit_small_patch16_224")
    module = vit_jax.create_model("vit_small_patch16_224", **{**TINY, "embed_dim": 384})
    with pytest.raises(UserError, match="num_heads=6"):
        pretrained.load(tmp_path / "out", module)
    assert pretrained.load(tmp_path / "out", module.clone(num_heads=6))[0].params


def test_sizes_without_a_name_are_given_as_a_module(tmp_path):
    model = model_of("vit_small_patch16_224")
    path = bare(tmp_path / "x.safetensors", "timm", model)
    with pytest.raises(UserError, match=r"Give the model's name.*--model-arg"):
        pretrained.load(path)
    loaded, _ = pretrained.load(path, vit_jax.create_model("vit_small_patch16_224", **TINY))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    with pytest.raises(UserError, match=r"depth=2 \(the model has 3"):
        pretrained.load(path, vit_jax.create_model("vit_small_patch16_224", **{**TINY, "depth": 3}))
    options = [f"--model-arg={key}={value}" for key, value in TINY.items()]
    command = ["convert", str(path), "--model", "vit_small_patch16_224", *options]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 0
    assert folder.read(tmp_path / "out").module == loaded.module
    assert cli.main([*command[:2], *options, "--output", str(tmp_path / "no")]) != 0
    assert cli.main([*command, "--model-arg=depht=3", "--output", str(tmp_path / "no")]) != 0


def test_a_name_keeps_how_the_source_resamples_positions(tmp_path):
    sizes = dict(img_size=518, patch_size=14, embed_dim=384, num_heads=6, depth=12)
    model = model_of("vit_small_patch14_dinov2", **sizes)
    path = bare(tmp_path / "x.safetensors", "dinov2", model)
    for name in (None, "vit_small_patch14_dinov2"):
        assert pretrained.load(path, name)[0].module.pos_resample == "bicubic_offset"


def test_options_that_say_nothing_here_are_refused(tmp_path):
    model, path = exported(tmp_path, "vit_base_patch16_224", "timm")
    with pytest.raises(UserError, match="revision='main' is of the hub"):
        pretrained.load(path, revision="main")
    folder.save(tmp_path / "converted", model)
    for option in (dict(revision="main"), dict(key="teacher"), dict(mapping="my.json")):
        with pytest.raises(UserError, match=f"{next(iter(option))}=.*is converted already"):
            pretrained.load(tmp_path / "converted", **option)
        with pytest.raises(UserError, match=f"{next(iter(option))}=.*is converted already"):
            vit_jax.pretrained_preprocessing(tmp_path / "converted", **option)


def test_names_of_transformers_without_a_configuration(tmp_path):
    for name in ("vit_base_patch16_224", "vit_base_patch16_clip_224"):
        _, path = exported(tmp_path / name, name)
        (path / "config.json").unlink()
        with pytest.raises(UserError, match=r"those of Transformers.*Put the config\.json"):
            pretrained.load(path)


def test_a_configuration_of_another_program_is_set_aside(tmp_path):
    module = vit_jax.create_model("vit_small_patch16_224", **TINY)
    path = bare(tmp_path / "x.safetensors", "timm", model_of("vit_small_patch16_224"))
    (tmp_path / "config.json").write_text('{"lr": 0.1}')
    with pytest.warns(UserWarning, match=r"config\.json is not taken into account"):
        assert pretrained.load(path, module)[0].module.depth == 2
