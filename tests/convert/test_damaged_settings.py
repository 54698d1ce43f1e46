"""Configurations with a key away or a value that is none, for each layout that has one.

The model that is loaded is as before, where the key does not matter, or there is an error that
names the file and the key. A key that is away stands for its default: what is then loaded, or not,
is what the default written out gives, and the default is the other library's own.
"""

import contextlib
import copy
import functools
import json
import warnings

import pytest

from tests.convert import cases, swin_cases
from tests.convert.cases import tiny_names  # noqa: F401 - a fixture that runs by itself
from vit_jax.convert import params, pretrained
from vit_jax.convert.layouts.base import differing
from vit_jax.convert.source import identify, open_source
from vit_jax.errors import UserError
from vit_jax.models import registry

torch, transformers = cases.torch, cases.transformers
AWAY = object()
VALUES = ("64", None, [], {}, -1)
ARCHITECTURES = ("vit_base_patch16_224", *swin_cases.TIMM.values())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few names, and parameters whose shapes are found once for each module."""
    shapes_of = functools.cache(params.shapes_of)
    monkeypatch.setattr(params, "shapes_of", lambda module: copy.deepcopy(shapes_of(module)))
    few = {name: registry.model_spec(name) for name in ARCHITECTURES}
    monkeypatch.setattr(registry, "_MODELS", few)


def clip_processor(folder):
    size = dict(shortest_edge=20)
    crop = dict(height=16, width=16)
    transformers.CLIPImageProcessor(size=size, crop_size=crop).save_pretrained(folder)


def open_clip_preprocessing(folder):
    cfg = dict(mean=[0.1] * 3, std=[0.2] * 3, interpolation="bilinear", resize_mode="squash")
    file = folder / "open_clip_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "preprocess_cfg": cfg}))


# A case, and what lies beside it that the case has not.
SOURCES = {
    "vit_classifier": lambda folder: None,
    "vit_pooler": lambda folder: None,
    "deit_with_teacher": lambda folder: None,
    "dinov2_swiglu_classifier": lambda folder: None,
    "dinov2_registers": lambda folder: None,
    "clip_vision_projection": clip_processor,
    "clip_two_towers": lambda folder: None,
    "siglip_vision_headless": lambda folder: None,
    "timm_vit_many_choices": lambda folder: None,
    "open_clip_quickgelu": open_clip_preprocessing,
    "mae": lambda folder: None,
    "swin": lambda folder: None,
    "swin v2": lambda folder: None,
    "timm swin": lambda folder: None,
    "timm swin v2": lambda folder: None,
}


def write(name, folder):
    if "swin" in name:
        save = swin_cases.timm_folder if "timm" in name else swin_cases.transformers_folder
        save(folder, 2 if "v2" in name else 1)
    elif name == "mae":
        decoder = {
            f"decoder_{key}": value for key, value in cases.HF.items() if key != "patch_size"
        }
        config = transformers.ViTMAEConfig(**cases.HF, **decoder, image_size=16, mask_ratio=0.5)
        transformers.ViTMAEForPreTraining(config).save_pretrained(folder)
    else:
        cases.CASES[name](folder, torch.float32)
    SOURCES[name](folder)


@contextlib.contextmanager
def changed(file, path, value):
    """The file with another value at a path, or, for `AWAY`, without that key."""
    text = file.read_text()
    config = json.loads(text)
    parent = parent_of(config, path)
    parent.pop(path[-1])
    if value is not AWAY:
        parent[path[-1]] = value
    file.write_text(json.dumps(config))
    yield
    file.write_text(text)


def keys_of(config, inside=()):
    """Every key of an object and of those in it: tuples."""
    for key, value in config.items():
        yield (*inside, key)
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            yield from keys_of(value, (*inside, key))


def outcome(folder):
    """What the folder is identified as, its tensors checked against it; and what is said."""
    found = None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            source = open_source(folder)
            identity = identify(source)
            with pretrained.explained(source, identity):
                module = identity.layout.module(**identity.hyper_parameters)
                module.check()
                pretrained._allocate(module, identity.layout.table(module, source), source, None)
            found, text = (module, identity.preprocessing), ""
        except UserError as error:
            text = str(error)
    return found, "\n".join([text, *(str(warning.message) for warning in warned)])


def same(one, other, text):
    """Whether both compute the same; that a preprocessing is another one has to be said."""
    prepared = one[1] == other[1] or "does not say how images are prepared" in text
    return prepared and not differing(one[0], other[0])


def parent_of(config, path):
    for key in path[:-1]:
        config = config[key]
    return config


def check(folder, file, path, before):
    """What is loaded is as before, or the error names the file and the key."""
    after, text = outcome(folder)
    good = same(after, before, text) if after else file.name in text and path[-1] in text
    assert good, (file.name, path, text)


@pytest.mark.parametrize("name", SOURCES)
def test_no_value_ends_in_a_traceback_or_in_another_model(tmp_path, name):
    write(name, tmp_path)
    before, text = outcome(tmp_path)
    assert before is not None, text
    for file in tmp_path.glob("*config.json"):
        whole = json.loads(file.read_text())
        for path in keys_of(whole):
            old = parent_of(whole, path)[path[-1]]
            for value in (x for x in VALUES if x != old):
                with changed(file, path, value):
                    check(tmp_path, file, path, before)


@pytest.mark.parametrize("name", SOURCES)
def test_a_key_that_is_away_stands_for_its_default(tmp_path, name):
    """For Transformers that of its own class, for timm that of the name."""
    write(name, tmp_path)
    before, _ = outcome(tmp_path)
    for file in tmp_path.glob("*config.json"):
        whole = json.loads(file.read_text())
        defaults = defaults_of(whole)
        for path in keys_of(whole):
            expected = before
            if path in defaults:
                with changed(file, path, defaults[path]):
                    expected, _ = outcome(tmp_path)
            with changed(file, path, AWAY):
                after, text = outcome(tmp_path)
            if after and expected:
                assert same(after, expected, text), (file.name, path, text)
            else:
                assert not after and file.name in text and path[-1] in text, (file.name, path, text)


OPEN_CLIP = {
    ("model_cfg", "quick_gelu"): False,
    ("preprocess_cfg", "mean"): registry.CLIP_MEAN,
    ("preprocess_cfg", "std"): registry.CLIP_STD,
    ("preprocess_cfg", "interpolation"): "bicubic",
    ("preprocess_cfg", "resize_mode"): "shortest",
}
TIMM_PREPROCESSING = {"interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}


def defaults_of(config):
    """What stands for keys that are away, by their paths."""
    if "model_cfg" in config:
        return OPEN_CLIP
    if "architecture" in config:
        module = registry.create_model(config["architecture"])
        found = {("model_args", key): getattr(module, key) for key in config["model_args"]}
        found |= {("pretrained_cfg", key): x for key, x in TIMM_PREPROCESSING.items()}
        pool = config["model_args"].get("global_pool", module.global_pool)
        return {**found, ("global_pool",): pool}
    if "model_type" not in config:
        return {}
    own = transformers.AutoConfig.for_model(config["model_type"]).to_json_string(use_diff=False)
    return {
        path: parent_of(json.loads(own), path)[path[-1]]
        for path in keys_of(json.loads(own))
        if path[-1] != "model_type"
    }
