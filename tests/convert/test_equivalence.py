"""Every family, from the files that users hold: ours and PyTorch's are the same function.

The standard: hidden states at every block to 1e-10 in float64 and 2e-5 in float32, the gradient of
every parameter to 1e-8, relative to the largest value (`vit_jax.convert.validate`).
"""

import functools

import pytest

from tests.convert import cases
from tests.convert.cases import tiny_names  # noqa: F401 - a fixture that runs by itself
from tests.convert.oracle_of import oracle_of
from vit_jax.convert import params, pretrained
from vit_jax.convert.oracles import build, timm
from vit_jax.convert.validate import compare


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds each case once, and loads it."""

    @functools.cache
    def build_case(name):
        case = cases.CASES[name](tmp_path_factory.mktemp(name), cases.torch.float32)
        return case, pretrained.load(case.path, param_dtype="source", **case.options)[0]

    return build_case


@pytest.mark.parametrize("name", cases.CASES)
def test_states_and_gradients(built, name):
    """Against the model that the file is of, as it is in memory."""
    case, model = built(name)
    oracle = oracle_of(case, model)
    report = compare(model, oracle, source=name, gradients=True)
    assert report.ok, report.table()
    places = [row.place for row in report.states]
    blocks = [f"blocks.{i}" for i in range(cases.DEPTH)]
    assert places == ["embedding", *blocks, "norm", "output"]
    assert {row.place for row in report.gradients} == set(params.by_path(model.params))
    in_float32 = compare(model, oracle, source=name, dtype="float32")
    assert in_float32.ok, in_float32.table()


# Cases that a second library can hold, whose implementation is another one.
SECOND = {
    "vit_like_timm": "timm",
    "timm_vit": "transformers",
    "dino_backbone": "transformers",
    "timm_distilled": "transformers",
    "dinov2_model": "timm",
    "original_dinov2": "transformers",
    "timm_dinov2_swiglu": "transformers",
    "clip_vision": "timm",
    "openai_clip": "transformers",
    "open_clip": "transformers",
    "siglip_vision": "timm",
    "timm_siglip_tanh": "transformers",
    "augreg": "transformers",
    "big_vision_map": "transformers",
}


@pytest.mark.parametrize("name, library", SECOND.items())
def test_the_second_implementation_agrees(built, name, library):
    """Its weights come through our export, which the first comparison has shown to be right."""
    _, model = built(name)
    report = compare(model, build(model, library), source=name, gradients=True)
    assert report.ok, report.table()


def test_timm_reads_registers_as_well(built):
    """It adds the class token's position to the token, so gradients are not one to one."""
    case, model = built("original_dinov2_registers")
    theirs = cases.timm_model(
        "vit_small_patch14_reg4_dinov2", img_size=cases.SQUARE, num_classes=0, reg_tokens=3,
        mlp_ratio=2,
    )  # fmt: skip
    rename = cases.timm.models.vision_transformer.checkpoint_filter_fn
    stored = {k: x.double() for k, x in cases.torch.load(case.path).items()}
    theirs.double().load_state_dict(rename(stored, theirs))
    report = compare(model, timm.wrap(theirs, None), source=case.path.name)
    assert report.ok, report.table()


# Patches that do not cover the image: 20 pixels, patches of 8.
UNCOVERED = {
    "transformers": cases.saved(
        cases.hugging_face(
            "SiglipVisionModel", "SiglipVisionConfig", **{**cases.SIGLIP_VISION, "image_size": 20}
        )
    ),
    "timm": cases.published("vit_so400m_patch14_siglip_384", img_size=20, num_classes=0),
}


@pytest.mark.parametrize("library", UNCOVERED)
def test_patches_that_do_not_cover_the_image(tmp_path, library):
    """SigLIP's model of 384 pixels with patches of 14; the rest of the image is never looked at."""
    built = UNCOVERED[library](tmp_path, cases.torch.float32)
    with pytest.warns(UserWarning, match=r"patches of 8 do not divide images of 20.*\(16, 16\)"):
        model, _ = pretrained.load(built.path, param_dtype="source")
    assert model.module.img_size == 16
    oracle = oracle_of(built, model)
    assert oracle.rest == (4, 4)
    report = compare(model, oracle)
    assert report.ok, report.table()
