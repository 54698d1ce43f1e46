"""Class names come in with weights, stay with them, go out with them, and go with the head."""

import json

import jax
import numpy as np
import pytest

import vit_jax
from tests.convert import cases
from vit_jax.convert import class_names, folder, params, pretrained
from vit_jax.convert.convert import convert
from vit_jax.convert.export import export
from vit_jax.convert.layouts.base import Source
from vit_jax.convert.source import identify, open_source
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError
from vit_jax.models import Preprocessing
from vit_jax.training.load_teacher import load_model

torch = cases.torch
NAMES = ("a cat", "ein Fuß", "the same", "the same", "n01440764")


def stored(name, path, **changes):
    """A case's folder, with other values in its config.json."""
    path.mkdir()
    cases.CASES[name](path, torch.float32)
    return changed(path, **changes)


def changed(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Folder of a Transformers' classifier, and of timm's."""
    root = tmp_path_factory.mktemp("plain")
    return {
        "id2label": stored("vit_classifier", root / "transformers"),
        "label_names": stored("timm_vit_many_choices", root / "timm"),
    }


def by_index(names):
    return {str(index): name for index, name in reversed(list(enumerate(names)))}


@pytest.mark.parametrize("key", ["id2label", "label_names"])
def test_names_come_in_and_go_out_again(plain, tmp_path, key):
    source, format = changed(plain[key], **{key: by_index(NAMES)}), "transformers"
    if key == "label_names":
        changed(source, label_names=list(NAMES))
        format = "timm"
    convert(tmp_path / "converted", source, report=lambda _: None)
    model = folder.read(tmp_path / "converted")
    assert model.class_names == NAMES
    export(model, tmp_path / "out", format)
    assert pretrained.load(tmp_path / "out")[0].class_names == NAMES
    if format == "transformers":
        config = cases.transformers.AutoConfig.from_pretrained(tmp_path / "out")
        assert config.id2label == dict(enumerate(NAMES)) and config.num_labels == len(NAMES)


def test_names_go_with_the_head(plain):
    source = changed(plain["id2label"], id2label=by_index(NAMES))
    for classes, wanted in ((len(NAMES), NAMES), (3, None), (0, None)):
        model, _ = pretrained.load(source, num_classes=classes, drop_rate=0.1)
        assert model.class_names == wanted


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("id2label", {str(i): f"LABEL_{i}" for i in range(5)}, None),
        ("id2label", {"0": "LABEL_0", "1": "LABEL_1"}, None),
        ("id2label", None, None),
        ("id2label", by_index(NAMES[:4]), "id2label in .* has 4 names .*5 outputs"),
        ("id2label", {"1": "x", "2": "x", "3": "x", "4": "x", "5": "x"}, "0 to 4"),
        ("label_names", NAMES[:2], "label_names in .* has 2 names"),
    ],
)
def test_what_are_no_names_of_these_classes(plain, key, value, message):
    source = open_source(changed(plain[key], **{key: value}))
    if message is None:
        assert identify(source).class_names is None
    else:
        with pytest.warns(UserWarning, match=message):
            assert identify(source).class_names is None


@pytest.mark.parametrize("value", [{"0": 1, "1": "b"}, ["a", None], 7])
def test_damaged_names_name_the_file(plain, value):
    source = open_source(changed(plain["label_names"], label_names=value))
    with pytest.raises(UserError, match=r"label_names=.*config\.json: expected"):
        identify(source)
    changed(plain["label_names"], label_names=None)


def test_timm_writes_names_where_they_are_read(tmp_path):
    timm = import_library("timm", "this test")
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=1)
    config = dict(label_names=list(NAMES))
    args = dict(depth=1)
    timm.models.save_for_hf(theirs, tmp_path, model_config=config, model_args=args)
    assert pretrained.load(tmp_path)[0].class_names == NAMES


@pytest.mark.parametrize(
    "tag, count, subset",
    [
        ("augreg_in21k_ft_in1k", 1000, "imagenet-1k"),
        ("ms_in22k", 21841, "imagenet-22k"),
        ("goog_in21k", 21843, "imagenet-21k-goog"),
        ("openai_ft_in12k", 11821, "imagenet-12k"),
        ("augreg_in21k", 1000, None),  # somebody's head on other weights
        ("laion2b", 1000, None),
        (None, 1000, None),
    ],
)
def test_classes_of_imagenet_are_those_of_timm(tmp_path, tag, count, subset):
    info = import_library("timm", "this test").data.ImageNetInfo
    pretrained_cfg = {} if tag is None else {"tag": tag}
    config = {"architecture": "vit_base_patch16_224", "pretrained_cfg": pretrained_cfg}
    wanted = None if subset is None else tuple(info(subset).label_descriptions())
    assert class_names.read(Source(tmp_path, {}, config), count) == wanted


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a converted model whose classes have names."""
    options = dict(img_size=4, patch_size=2, embed_dim=4, depth=1, num_heads=1, num_classes=3)
    module = vit_jax.create_model("vit_tiny_patch16_224", **options)
    shapes = params.shapes_of(module)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    place = tmp_path_factory.mktemp("teacher") / "model"
    vit_jax.save_pretrained(
        place,
        module,
        {"params": zeros},
        preprocessing=Preprocessing(),
        class_names=("cat", "dog", "fox"),
    )
    return place


def described(place, **changes):
    file = place / folder.DESCRIPTION
    content = {**json.loads(file.read_text()), **changes}
    content = {key: value for key, value in content.items() if value is not ...}
    file.write_text(json.dumps(content))


def test_a_description_of_before_there_were_names_is_read(teacher):
    assert folder.read(teacher).class_names == ("cat", "dog", "fox")
    described(teacher, class_names=..., probabilities=...)
    model = folder.read(teacher)
    assert model.class_names is None and model.probabilities == "softmax"
    for names, message in (
        (["cat", "dog"], r"model\.json: class_names has 2 names.*num_classes=3"),
        (["cat", "dog", 3], r"class_names=.*model\.json: expected"),
    ):
        described(teacher, class_names=names)
        with pytest.raises(UserError, match=message):
            folder.read(teacher)
    described(teacher, class_names=["cat", "dog", "fox"], probabilities="sigmoid")
    assert folder.read(teacher).probabilities == "sigmoid"


def test_a_teacher_of_other_classes_is_refused(teacher):

    def load(names):
        return load_model(str(teacher), class_names=names)

    assert load(["cat", "dog", "fox"]).class_names == load(None).class_names
    with pytest.raises(UserError, match=r"label 1 is 'dog' in the one and 'fox'.*model\.json"):
        load(["cat", "fox", "dog"])
    with pytest.warns(UserWarning, match=r"'cat', \.\.\., the data 'n00000001'.*not checked"):
        load([f"n0000000{i}" for i in (1, 2, 3)])
    assert load(["a", "b"]).class_names  # what has another number of classes is refused later
    described(teacher, class_names=None)
    assert load(["x", "y", "z"]).class_names is None
    described(teacher, class_names=["cat", "dog", "fox"])
