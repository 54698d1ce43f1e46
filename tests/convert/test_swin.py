"""Swin Transformers come in from every layout, compute the same, and go out bit for bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.convert import swin_cases
from tests.convert.swin_cases import (
    VERSIONS,
    original_names,
    timm,
    timm_folder,
    timm_model,
    torch,
    transformers_folder,
)
from vit_jax.convert import folder, params, pretrained
from vit_jax.convert.export import export
from vit_jax.convert.oracles.swin import with_exact_offsets
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.validate import validate
from vit_jax.errors import UserError
from vit_jax.models import SwinTransformer, registry

both_versions = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(autouse=True)
def tiny_names(monkeypatch):
    """Names for files that do not say what they are."""
    for version, options in VERSIONS.items():
        spec = registry.ModelSpec(
            SwinTransformer, dict(options, version=version, num_classes=5), registry.Preprocessing()
        )
        monkeypatch.setitem(registry._MODELS, f"tiny_swin{version}", spec)


def check_same(model, theirs, answer):
    """Float64 logits at the size of the model."""
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3))
    with torch.no_grad():
        expected = answer(theirs(torch.tensor(images.transpose(0, 3, 1, 2)))).numpy()
    with jax.enable_x64(True):
        found = jax.device_get(jax.jit(model.module.apply)({"params": model.params}, images))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def bits(arrays):
    leaves = jax.tree.leaves_with_path(arrays)
    return {
        jax.tree_util.keystr(path): (str(x.dtype), x.shape, np.asarray(x).tobytes())
        for path, x in leaves
    }


def check_files_equal(one, other):
    """Two checkpoints with the same tensors under the same names."""
    read = [
        {name: np.asarray(tensor.read()) for name, tensor in read_tensors(path).items()}
        for path in (one, other)
    ]
    assert bits(read[0]) == bits(read[1])


load = functools.partial(pretrained.load, param_dtype="source")


@both_versions
def test_transformers_in_and_out(tmp_path, version):
    theirs = transformers_folder(tmp_path / "in", version)
    model, _ = load(tmp_path / "in")
    assert model.module.version == version
    assert model.module.windows() == ((4, 4), (4, 4))
    check_same(model, theirs, lambda output: output.logits)
    export(model, tmp_path / "out", "transformers")
    check_files_equal(tmp_path / "in", tmp_path / "out")
    back = type(theirs).from_pretrained(tmp_path / "out", dtype=torch.float64)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


@both_versions
def test_timm_in_and_out(tmp_path, version):
    theirs = timm_folder(tmp_path / "in", version)
    model, _ = load(tmp_path / "in")
    check_same(model, theirs, lambda output: output)
    export(model, tmp_path / "out", "timm")
    check_files_equal(tmp_path / "in", tmp_path / "out")
    back = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert back.layers[0].blocks[0].window_size == (4, 4)
    for name, tensor in theirs.named_parameters():
        assert torch.equal(tensor.float(), back.get_parameter(name).float()), name


@both_versions
def test_timm_loads_the_weights_by_its_own_name(tmp_path, version):
    """`checkpoint_path`, which is strict: a missing or an unexpected name is an error there."""
    theirs = timm_folder(tmp_path / "in", version)
    model, _ = load(tmp_path / "in")
    export(model, tmp_path / "out", "timm")
    path = str(tmp_path / "out" / "model.safetensors")
    back = timm.create_model(
        swin_cases.TIMM[version], checkpoint_path=path, num_classes=5, **VERSIONS[version]
    )
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    # timm loads in float32; both with the same offsets after that.
    one, other = (with_exact_offsets(x.float().double().eval()) for x in (back, theirs))
    with torch.no_grad():
        assert torch.equal(one(images), other(images))


@both_versions
def test_the_authors_files_come_in(tmp_path, version):
    """Equal to what timm's own reader of such files makes of them."""
    theirs, _ = timm_model(version)
    path = tmp_path / "swin.pth"
    torch.save({"model": original_names(theirs.state_dict(), version), "epoch": 3}, path)
    with pytest.raises(UserError, match=f"does not say which model it is.*tiny_swin{version}"):
        load(path)
    model, _ = load(path, f"tiny_swin{version}")
    check_same(model, theirs, lambda output: output)
    filtered = timm.models.swin_transformer.checkpoint_filter_fn(torch.load(path), theirs)
    again = {k: v for k, v in filtered.items() if "relative_coords" not in k}
    for name, tensor in theirs.named_parameters():
        assert torch.equal(again[name], tensor), name


def test_names_in_memory_and_backbones_come_in(tmp_path):
    """Transformers 5 renames version 1 in memory; a backbone has no classifier and no prefix."""
    theirs = transformers_folder(tmp_path / "in", 1, "Model", qkv_bias=False)
    model, _ = load(tmp_path / "in")
    assert (model.module.num_classes, model.module.qkv_bias) == (0, False)
    check_same(model, theirs, lambda output: output.pooler_output)
    theirs.config.save_pretrained(tmp_path / "memory")
    torch.save(theirs.state_dict(), tmp_path / "memory" / "pytorch_model.bin")
    again, _ = load(tmp_path / "memory")
    assert bits(again.params) == bits(model.params)


def test_out_in_our_own_format_and_for_another_window(tmp_path):
    transformers_folder(tmp_path / "in", 1)
    model, _ = load(tmp_path / "in", scan=True)
    folder.save(tmp_path / "own", model)
    again = folder.read(tmp_path / "own")
    assert again.module == model.module
    assert bits(again.params) == bits(model.params)
    small, report = load(tmp_path / "own", window_size=3, img_size=48, num_classes=2)
    assert len(report.resampled) == 2  # one scanned table a stage
    assert report.drawn == ("head/bias", "head/kernel")
    assert small.params["stages_0"]["blocks"]["attn"]["rel_pos"]["table"].shape == (2, 5, 5, 2)


def test_what_a_layout_cannot_say_is_refused(tmp_path):
    transformers_folder(tmp_path / "in", 1)
    model, _ = load(tmp_path / "in")
    for options, format, message in (
        (dict(window_size=(4, 4)), "transformers", "Transformers has one number for all stages"),
        (dict(norm_eps=1e-6), "transformers", "norm_eps|layer_norm_eps"),
        (dict(act_layer="relu"), "timm", "cannot say act_layer='relu'"),
    ):
        other = model.__class__(**{**vars(model), "module": model.module.clone(**options)})
        with pytest.raises(UserError, match=message):
            export(other, tmp_path / "out", format)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(use_absolute_embeddings=True),
            "use_absolute_embeddings=true in .*config.json: expected false",
        ),
        (dict(layer_norm_eps=1e-6), "layer_norm_eps=1e-06 .* 1e-5 in others"),
        (dict(hidden_act="mish"), 'hidden_act="mish" in .*config.json: expected one of .*gelu'),
    ],
)
def test_what_this_library_does_not_have_is_refused(tmp_path, options, message):
    transformers_folder(tmp_path, 1, **options)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


# Against the libraries, by `validate`.


def authors_file(path, version):
    theirs, _ = timm_model(version)
    torch.save({"model": original_names(theirs.state_dict(), version)}, path / "swin.pth")


READ_BY = {
    "timm": (timm_folder, "", "timm from the same folder"),
    "transformers": (transformers_folder, "", "Transformers from the same folder"),
    "authors": (authors_file, "swin.pth", "timm from the same file"),
}


@both_versions
@pytest.mark.parametrize("source", READ_BY)
def test_validate_states_and_gradients(tmp_path, version, source):
    write, file, how = READ_BY[source]
    write(tmp_path, version)
    name = f"tiny_swin{version}" if file else None
    report = validate(tmp_path / file, name, gradients=True)
    assert report.ok, report.table()
    assert report.how == f"read by {how}"
    places = [row.place for row in report.states]
    assert places == ["embedding", "blocks.0", "blocks.1", "blocks.2", "norm", "output"]
    model, _ = load(tmp_path / file, name)
    assert {row.place for row in report.gradients} == set(params.by_path(model.params))
    rounded = [row for row in report.gradients if row.max_rel > 0]
    assert len(rounded) > len(report.gradients) / 2  # nothing is compared with itself


def test_validate_without_a_head(tmp_path):
    transformers_folder(tmp_path / "hf", 1, "Model")
    timm_folder(tmp_path / "timm", 1, num_classes=0)
    for name in ("hf", "timm"):
        report = validate(tmp_path / name)
        assert report.ok, report.table()
        assert report.how.startswith("read by")


@both_versions
def test_validate_against_the_other_library(tmp_path, version):
    timm_folder(tmp_path, version, global_pool="avg")
    report = validate(tmp_path, against="transformers")
    assert report.ok, report.table()
    assert "Transformers" in report.oracle and "own export" in report.how


@pytest.mark.parametrize(
    "version, change, place",
    [
        (1, dict(act_layer="gelu_tanh"), "blocks.0"),
        (1, dict(norm_eps=1e-6), "embedding"),
        (2, dict(pretrained_window_sizes=(3, 3)), "blocks.2"),
    ],
)
def test_validate_names_the_first_place(tmp_path, monkeypatch, version, change, place):
    transformers_folder(tmp_path, version)
    read = pretrained.read

    def mistaken(*args, **options):
        model = read(*args, **options)
        return dataclasses.replace(model, module=model.module.clone(**change))

    monkeypatch.setattr(pretrained, "read", mistaken)
    assert validate(tmp_path).first_difference == place


def test_offsets_that_are_not_the_papers(tmp_path):
    theirs, _ = timm_model(2)
    theirs.layers[0].blocks[1].attn.relative_coords_table[0, 0, 0, 0] += 1e-3
    with pytest.raises(UserError, match=r"layers\.0\.blocks\.1\.attn .* other offsets"):
        with_exact_offsets(theirs)
