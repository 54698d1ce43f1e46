"""Pages that lead through something, from top to bottom: what works on the digits is run.

Training is made short. What needs data, chips or machines that are not here is passed over; that
its commands are right is seen in test_pages.py.
"""

import dataclasses
import math

import jax
import numpy as np
import pytest

from tests.docs import markdown
from vit_jax import models
from vit_jax.cli.arguments import PREFIX
from vit_jax.convert import folder, params, source
from vit_jax.convert.export import export
from vit_jax.models import registry
from vit_jax.training import sharding
from vit_jax.training.config import load_config
from vit_jax.training.metrics import read_metrics

SHORTER = (
    "total_epochs=1",
    "schedule.warmup_epochs=0",
    "checkpoint.every_epochs=1",
    "eval_every_epochs=None",
)
VIT_B = "vit_base_patch16_224"


def is_elsewhere(command):
    """Whether a command needs more than this machine and the digits."""
    if "--config" not in command:
        return False
    changes = [word.removeprefix(PREFIX) for word in command if word.startswith(PREFIX)]
    config = load_config(command[command.index("--config") + 1], changes)
    return (
        command[0] in ("tpu", "compile")
        or config.data.source != "digits"
        or config.distributed.coordinator is not None
    )


@pytest.fixture
def one_device(monkeypatch):
    """Runs see one of the eight devices, as most readers have: a program for one compiles sooner.

    A mesh that is asked for is one of all.
    """
    make_mesh = sharding.make_mesh

    def make(sizes, devices=None):
        asked = math.prod(sizes[axis] for axis in sharding.AXES) > 0
        return make_mesh(sizes, devices or (None if asked else jax.devices()[:1]))

    monkeypatch.setattr(sharding, "make_mesh", make)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("page", "runs"),
    [
        ("quick_start", {"digits", "short"}),
        ("tutorial_train", {"tutorial"}),
        ("tutorial_pretrain", {"mae_digits", "mae_digits_probe", "mae_digits_tuned"}),
        ("tutorial_teacher", {"mixed", "resnet_digits", "deit_digits"}),
        ("configure", {"wide"}),
        ("fine_tune", {"base", "further", "layers", "adapters"}),
        ("accelerators", {"mesh"}),
        ("resume", {"again"}),
    ],
)
def test_the_page_from_top_to_bottom(page, runs, checkout, call):
    shorter = () if page == "resume" else SHORTER  # there the last run is one of Python's
    markdown.run(f"docs/{page}.md", call, shorter, is_elsewhere)
    assert {path.name for path in (checkout / "runs").iterdir() if path.name[0] != "."} == runs
    for name in runs:
        assert read_metrics(checkout / "runs" / name)[-1]["split"] == "test"


def test_python_on_the_page_of_data(checkout, call):
    names = markdown.run("docs/own_data.md", call, passed=is_elsewhere)
    assert names["picture"].shape == (8, 8, 1) and names["picture"].dtype == "uint8"


@pytest.fixture
def small(checkout, monkeypatch):
    """ViT-B by name is made small; what comes from the hub is a small model too."""
    spec = registry.model_spec(VIT_B)
    sizes = {**spec.hyper_parameters, "embed_dim": 32, "depth": 2, "num_heads": 4}
    monkeypatch.setitem(registry._MODELS, VIT_B, dataclasses.replace(spec, hyper_parameters=sizes))
    module = models.create_model(VIT_B, norm_eps=1e-6)
    model = folder.Model(module, params.allocate(module, "float32"), spec.preprocessing)
    for name in ("transformers", "timm"):
        export(model, checkout / name, name)

    def download(hub_id, **_):
        return checkout / ("timm" if hub_id.startswith("timm/") else "transformers")

    monkeypatch.setattr(source, "download", download)


def test_python_of_the_readme(small, call):
    names = markdown.run("README.md", call, passed=lambda command: True)
    assert names["seen"].attention.shape == (2, 2, 4, 197, 197)
    assert names["module"].num_classes == 10


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_from_python(small, call):
    names = markdown.run("docs/python.md", call)
    assert names["seen"].tokens.shape == (2, 2, 197, 32)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(names["grads"]))
    assert names["result"].completed
