"""Masked autoencoders come in from every layout, compute the same, and go out bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.convert import cases
from tests.models.mae_oracle import MaskedAutoencoderViT
from tests.models.timm_oracle import timm
from vit_jax.convert import params, pretrained
from vit_jax.convert.export import choose_layout, export
from vit_jax.convert.mapping import outward
from vit_jax.convert.oracles import transformers as oracle
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.validate import compare, validate
from vit_jax.errors import UserError
from vit_jax.models import MaskedAutoencoder, VisionTransformer
from vit_jax.models.layers.position import sincos_table
from vit_jax.objectives.mae import MaskedAutoencoding

torch, transformers = cases.torch, cases.transformers
SIZES = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
DECODER = dict(decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
HF = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=56,
)
pytestmark = pytest.mark.filterwarnings("ignore:.*does not say how images are prepared")
PLACES = ["embedding", "blocks.0", "blocks.1", "norm"]
load = functools.partial(pretrained.load, param_dtype="source")


def module(**options):
    return vit_jax.create_model("mae_vit_base_patch16", **{**SIZES, **DECODER, **options})


def transformers_model(name="ViTMAEForPreTraining", dtype=torch.float32, **options):
    config = transformers.ViTMAEConfig(**{**HF, **options})
    return cases.randomize(getattr(transformers, name)(config), dtype)


def saved(folder, **options):
    theirs = transformers_model(**options)
    theirs.save_pretrained(folder)
    return theirs


def original(**options):
    return cases.randomize(MaskedAutoencoderViT(**{**SIZES, **DECODER, **options}), torch.float32)


def written(path, state, **beside):
    torch.save({"model": state, **beside}, path)
    return path


def fixed(state):
    """The state with positions as the authors' files have them: sin-cos, in float32."""
    for name in ("pos_embed", "decoder_pos_embed"):
        if name in state:
            table = sincos_table("sincos_2d", (4, 4), state[name].shape[-1])
            state[name] = torch.from_numpy(np.pad(table, ((1, 0), (0, 0)))[None]).float()
    return state


def encoder_of(state):
    return {k: x for k, x in state.items() if "decoder" not in k and k != "mask_token"}


def bits(tree):
    return {
        path: (str(x.dtype), x.shape, np.asarray(x).tobytes())
        for path, x in params.by_path(tree).items()
    }


def drawn(images=3):
    rng = np.random.default_rng(5)
    return rng.normal(size=(images, 32, 32, 3)), rng.random((images, 16))


# The same function.


def test_every_block_and_gradient_equals_transformers(tmp_path):
    theirs = saved(tmp_path)
    model, report = load(tmp_path)
    assert not report.drawn + report.resampled + report.left_out
    assert isinstance(model.module, MaskedAutoencoder)
    assert model.module.norm_eps == 1e-12
    layout, _, _ = choose_layout(model, "transformers")
    against = oracle.wrap(theirs, model.module, layout)
    report = compare(model, against, gradients=True)
    assert report.ok, report.table()
    places = {row.place for row in report.states}
    assert places == {*PLACES, "decoder.0", "decoder.1", "output"}
    moving = set(params.by_path(model.params)) - set(model.module.fixed_params)
    assert {row.place for row in report.gradients} == moving
    in_float32 = compare(model, against, dtype="float32")
    assert in_float32.ok, in_float32.table()


def test_the_encoder_alone_equals_transformers(tmp_path):
    theirs = saved(tmp_path, name="ViTMAEModel", qkv_bias=False)
    model, _ = load(tmp_path)
    assert type(model.module) is VisionTransformer
    assert (model.module.num_classes, model.module.qkv_bias) == (0, False)
    layout, _, files = choose_layout(model, "transformers")
    assert files["config.json"]["architectures"] == ["ViTMAEModel"]
    report = compare(model, oracle.wrap(theirs, model.module, layout), gradients=True)
    assert report.ok, report.table()
    assert len(report.gradients) == len(params.by_path(model.params)) - 1


@pytest.mark.parametrize("normed", [False, True])
def test_loss_prediction_and_mask_equal_both_implementations(tmp_path, normed):
    """Transformers' and the authors', with the same weights, from the same noise."""
    authors = original(mask_ratio=0.6, norm_pix_loss=normed)
    path = written(tmp_path / "mae.pth", authors.state_dict())
    model, _ = load(path, module(mask_ratio=0.6))
    export(model, tmp_path / "transformers", "transformers")
    options = dict(dtype=torch.float64, norm_pix_loss=normed)
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "transformers", **options)
    images, noise = drawn()
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        prediction, mask, loss = authors.double()(planes, torch.from_numpy(noise))
        found = theirs.eval()(planes, noise=torch.from_numpy(noise))
    learned = MaskedAutoencoding(model.module, norm_pix_loss=normed)

    @jax.jit
    def ours(tree, images, noise):
        output = model.module.apply({"params": tree}, images, noise=noise)
        return output, learned._per_example(output, images)["loss"].mean()

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), model.params)
        output, value = jax.device_get(ours(wide, images, noise))
    scale = np.abs(prediction.numpy()).max()
    for other_prediction, other_mask, other_loss in (
        (prediction, mask, loss),
        (found.logits, found.mask, found.loss),
    ):
        np.testing.assert_array_equal(output.mask, other_mask)
        assert np.abs(output.prediction - other_prediction.numpy()).max() <= 1e-10 * scale
        assert abs(value - float(other_loss)) <= 1e-10 * float(other_loss)
    np.testing.assert_array_equal(output.ids_restore, noise.argsort(axis=1).argsort(axis=1))


def test_validate_from_the_authors_file(tmp_path):
    """Against Transformers, which is given the weights by our export."""
    path = written(tmp_path / "mae.pth", fixed(original().state_dict()), epoch=799)
    report = validate(path, module(), gradients=True)
    assert report.ok, report.table()
    assert "ViTMAEForPreTraining" in report.oracle
    assert "decoder.1" in {row.place for row in report.states}


def test_validate_finds_a_wrong_decoder(tmp_path):
    theirs = saved(tmp_path)
    model, _ = load(tmp_path)
    layout, _, _ = choose_layout(model, "transformers")
    with torch.no_grad():
        theirs.decoder.decoder_layers[1].mlp.fc1.bias[3] += 1e-6
    report = compare(model, oracle.wrap(theirs, model.module, layout))
    assert report.first_difference == "decoder.1"


# Names, and what is told.


def test_three_sets_of_names(tmp_path):
    """Of Transformers 5's files, of version 4's (which the hub holds), and in memory."""
    theirs = saved(tmp_path / "five")
    expected = bits(load(tmp_path / "five")[0].params)
    theirs.config.architectures = ["ViTMAEForPreTraining"]
    four = {
        name.replace("decoder_encoder.layer.", "decoder_layers."): torch.from_numpy(x.read().copy())
        for name, x in read_tensors(tmp_path / "five").items()
    }
    for folder, state in (("four", four), ("memory", theirs.state_dict())):
        theirs.config.save_pretrained(tmp_path / folder)
        torch.save(state, tmp_path / folder / "pytorch_model.bin")
        assert bits(load(tmp_path / folder)[0].params) == expected, folder
    assert any("decoder_layers.0.attention.attention.query" in name for name in four)


def test_the_authors_files_say_what_they_are(tmp_path):
    """By their widths, where models of these were published; others need a module."""
    published = dict(embed_dim=768, num_heads=12, depth=1, decoder_embed_dim=512)
    state = fixed(original(**published, decoder_depth=1, decoder_num_heads=16).state_dict())
    model, _ = load(written(tmp_path / "whole.pth", state))
    found = model.module
    assert (found.num_heads, found.decoder_num_heads, found.decoder_depth) == (12, 16, 1)
    assert (found.img_size, found.patch_size, found.mask_ratio) == (32, 8, 0.75)
    encoder, _ = load(written(tmp_path / "encoder.pth", encoder_of(state)))
    assert encoder.module == found.encoder_alone().clone(global_pool="token")
    small = fixed(original().state_dict())
    for state, name in ((small, "MaskedAutoencoder"), (encoder_of(small), "VisionTransformer")):
        with pytest.raises(UserError, match="does not say which model it is of"):
            load(written(tmp_path / f"{name}.pth", state))


def test_the_encoder_alone_comes_into_a_plain_transformer(tmp_path):
    """The authors' file without decoder equals timm's own reading of it."""
    theirs = timm.create_model("vit_base_patch16_224", **SIZES, num_classes=0, global_pool="token")
    theirs = cases.randomize(theirs, torch.float32)
    state = fixed(theirs.state_dict())
    theirs.load_state_dict(state)
    plain = vit_jax.create_model("vit_base_patch16_224", **SIZES)
    path = written(tmp_path / "encoder.pth", state)
    report = validate(path, plain, against="timm", gradients=True)
    assert report.ok, report.table()
    assert "read by timm" in report.how


def test_a_fine_tuned_encoder_comes_in(tmp_path):
    """Mean of the patches, a norm after it, positions that have moved; equal to timm's."""
    sizes = {**SIZES, "embed_dim": 768, "num_heads": 12, "depth": 1}
    theirs = timm.create_model(
        "vit_base_patch16_224", **sizes, num_classes=5, global_pool="avg", fc_norm=True
    )
    state = fixed(cases.randomize(theirs, torch.float32).state_dict())
    state["pos_embed"] += 0.1 * torch.randn(
        state["pos_embed"].shape, generator=torch.Generator().manual_seed(0)
    )
    theirs.load_state_dict(state)
    model, _ = load(written(tmp_path / "tuned.pth", state, optimizer={}))
    assert (model.module.global_pool, model.module.num_classes) == ("avg", 5)
    assert model.module.pos_embed == "learn"
    images, _ = drawn()
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    with jax.enable_x64(True):
        found = jax.device_get(jax.jit(model.module.apply)({"params": model.params}, images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


# Out and in again.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_gets_the_bits_back(tmp_path, dtype):
    for name in ("ViTMAEForPreTraining", "ViTMAEModel"):
        theirs = saved(tmp_path / name, name=name, dtype=dtype, mask_ratio=0.5)
        model, _ = load(tmp_path / name, scan=True)
        export(model, tmp_path / f"out_{name}", "transformers")
        back, info = type(theirs).from_pretrained(
            tmp_path / f"out_{name}", dtype="auto", output_loading_info=True
        )
        assert not any(info.values()), info
        for parameter, tensor in theirs.state_dict().items():
            assert torch.equal(tensor, back.state_dict()[parameter]), parameter
        again, _ = load(tmp_path / f"out_{name}", scan=True)
        assert bits(again.params) == bits(model.params)
        assert again.module == model.module


def test_the_authors_code_gets_the_bits_back(tmp_path):
    sizes = dict(embed_dim=512, num_heads=16, depth=1, decoder_embed_dim=512)
    authors = original(**sizes, decoder_depth=1, decoder_num_heads=16)
    authors.load_state_dict(fixed(authors.state_dict()))
    model, _ = load(written(tmp_path / "in.pth", authors.state_dict()))
    export(model, tmp_path / "out", "mae")
    stored = torch.load(tmp_path / "out" / "model.pth")["model"]
    assert set(stored) == set(authors.state_dict())
    for name, tensor in authors.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    with pytest.raises(UserError, match="format 'timm' cannot hold this model"):
        export(model, tmp_path / "timm", "timm")


def test_what_the_authors_file_cannot_say_is_refused(tmp_path):
    path = written(tmp_path / "mae.pth", original().state_dict())
    model, _ = load(path, module())
    with pytest.raises(UserError, match=r"'mae' cannot say .*num_heads=4 .would be read as 12"):
        export(model, tmp_path / "out", "mae")
    layout = next(x for x in vit_jax.convert.layouts.LAYOUTS if x.family == "mae")
    tensors = outward(params.by_path(model.params), layout.write_table(model.module))
    stored = read_tensors(path)
    assert set(tensors) == set(stored)
    for name, tensor in stored.items():
        assert tensors[name].read().tobytes() == tensor.read().tobytes(), name


def test_a_model_with_registers_is_refused_by_transformers(tmp_path):
    odd = module(reg_tokens=2)
    shapes = params.shapes_of(odd)
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    model = pretrained.Model(odd, tree, vit_jax.preprocessing("mae_vit_base_patch16"))
    with pytest.raises(UserError, match="cannot hold this model"):
        export(model, tmp_path / "out", "transformers")
