"""Out and in again: the bits that went in, for every family, format and dtype."""

import functools
import itertools

import jax
import numpy as np
import pytest

from tests.convert import cases
from tests.convert.cases import tiny_names  # noqa: F401 - a fixture that runs by itself
from vit_jax.convert import folder, pretrained
from vit_jax.convert.export import FORMATS, choose_layout, export
from vit_jax.convert.readers import read_tensors
from vit_jax.errors import UserError

torch = cases.torch
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One dtype a case, in turn; all of them where parts are packed, split, stacked and cut.
GIVEN = dict.fromkeys(
    [
        *zip(cases.CASES, itertools.cycle(DTYPES)),
        *itertools.product(("vit_classifier", "siglip_vision", "timm_22b", "augreg"), DTYPES),
    ]
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    @functools.cache
    def build_case(name, dtype):
        case = cases.CASES[name](tmp_path_factory.mktemp(name), dtype)
        model, _ = pretrained.load(case.path, param_dtype="source", **case.options)
        return case, model

    return build_case


def bits(arrays):
    """Every array by its path: dtype, shape and bytes."""
    return {
        jax.tree_util.keystr(path): (str(x.dtype), x.shape, np.asarray(x).tobytes())
        for path, x in jax.tree.leaves_with_path(arrays)
    }


def torch_bits(module, dtype):
    """As `bits`, of the parameters of a PyTorch module; DINOv2's mask token is for training."""
    return {
        name: (tuple(x.shape), x.detach().to(dtype).view(torch.uint8).numpy().tobytes())
        for name, x in module.named_parameters()
        if not name.endswith("mask_token")
    }


def that_fit(format):
    return [pair for pair in GIVEN if format in cases.HELD_BY[pair[0]]]


@pytest.mark.parametrize("name, dtype", GIVEN)
def test_the_bits_that_went_in(built, tmp_path, name, dtype):
    """In, out in each format that holds the model, in again; and the dtype is the file's."""
    case, model = built(name, dtype)
    before = bits(model.params)
    stored = {x.dtype.name for x in read_tensors(case.path, key=case.options.get("key")).values()}
    assert {kind for kind, _, _ in before.values()} <= stored
    held = []
    for format in sorted(set(FORMATS) - {"own"}):
        try:
            choose_layout(model, format)
        except UserError:
            continue
        held.append(format)
        export(model, tmp_path / format, format)
        written = tmp_path / format / ("model.npz" if format == "npz" else "")
        again, _ = pretrained.load(written, param_dtype="source")
        assert bits(again.params) == before, format
    assert set(held) == set(cases.HELD_BY[name])


@pytest.mark.parametrize(
    "name, dtype", [pair for pair in GIVEN if "timm" in cases.HELD_BY[pair[0]]]
)
def test_timm_loads_what_is_exported(built, tmp_path, name, dtype):
    """Strictly: a missing or unexpected name is an error there; and it has the same bits."""
    case, model = built(name, dtype)
    export(model, tmp_path / "out", "timm")
    theirs = cases.timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    if case.library == "timm":
        assert torch_bits(theirs, dtype) == torch_bits(case.theirs, dtype)


BY_NAME = {
    "timm_vit": "vit_base_patch16_224",
    "timm_distilled": "deit_base_distilled_patch16_224",
    "timm_clip": "vit_base_patch16_clip_224",
    "timm_siglip_gap": "vit_base_patch16_siglip_gap_224",
    "timm_22b": "vit_base_patch16_xp_224",
}


@pytest.mark.parametrize("case_name, name", BY_NAME.items())
def test_timm_loads_the_weights_by_its_own_name(built, tmp_path, case_name, name):
    """`checkpoint_path`, which is strict: a missing or an unexpected name is an error there."""
    case, model = built(case_name, torch.float32)
    export(model, tmp_path / "out", "timm")
    path = str(tmp_path / "out" / "model.safetensors")
    options = dict(num_classes=model.module.num_classes)
    back = cases.timm_model(name, checkpoint_path=path, **options).eval()
    images = torch.randn(2, 3, *cases.WIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = case.theirs(images)
        assert torch.equal(back(images), expected) and expected.std() > 0


@pytest.mark.parametrize("name, dtype", that_fit("transformers"))
def test_transformers_loads_what_is_exported(built, tmp_path, name, dtype):
    """Without a missing or unexpected name; and it has the same bits."""
    case, model = built(name, dtype)
    export(model, tmp_path / "out", "transformers")
    config = cases.transformers.AutoConfig.from_pretrained(tmp_path / "out")
    cls = getattr(cases.transformers, config.architectures[0])
    options = {}
    if cls.__name__ == "ViTModel" and model.module.representation_size is None:
        options["add_pooling_layer"] = False
    theirs, info = cls.from_pretrained(
        tmp_path / "out", dtype="auto", output_loading_info=True, **options
    )
    assert not any(info.values()), info
    if case.library == "transformers" and type(case.theirs) is cls:
        assert {p.dtype for p in theirs.parameters()} == {dtype}
        assert torch_bits(theirs, dtype) == torch_bits(case.theirs, dtype)


def test_a_scanned_module_and_a_converted_folder(built, tmp_path):
    """Neither changes a bit on the way."""
    case, model = built("vit_classifier", torch.bfloat16)
    scanned, _ = pretrained.load(case.path, param_dtype="source", scan=True)
    folder.save(tmp_path / "converted", scanned)
    converted, _ = pretrained.load(tmp_path / "converted", param_dtype="source")
    assert bits(converted.params) == bits(scanned.params)
    export(converted, tmp_path / "out", "transformers")
    again, _ = pretrained.load(tmp_path / "out", param_dtype="source")
    assert bits(again.params) == bits(model.params)
    assert again.module == model.module
