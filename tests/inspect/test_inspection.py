"""An inspection as a whole: what it is given, and what it says of state, meshes and chips."""

import dataclasses
import json

import jax
import pytest

from tests.inspect import tiny
from vit_jax import models
from vit_jax.convert import folder
from vit_jax.errors import MissingFileError, UserError
from vit_jax.inspect import live
from vit_jax.inspect.chips import CHIPS, FRACTION, MARGIN
from vit_jax.inspect.inspection import inspect_model
from vit_jax.inspect.source import configuration
from vit_jax.training import run_folder
from vit_jax.training.config import base_config
from vit_jax.training.experiment import Experiment
from vit_jax.training.report import bytes_a_device
from vit_jax.training.resolve import resolve

NAME = "vit_tiny_patch16_224"
OVERRIDES = ("model.depth=2", "model.num_classes=10", "ema_decay=0.999", "model.dtype='bfloat16'")
MESH = {"data": 2, "fsdp": 4}


@pytest.fixture(scope="module")
def found():
    """An inspection on a mesh of eight devices that are not there."""
    return inspect_model(NAME, image_size=64, batch_size=32, mesh=MESH, overrides=OVERRIDES)


@pytest.fixture(scope="module")
def real():
    """The same run, put together on eight devices."""
    config = configuration(NAME, OVERRIDES)
    config.model.img_size, config.data.batch_size, config.total_steps = 64, 32, 1
    config.mesh.update({"data": 2, "fsdp": 4})
    return Experiment(resolve(config, 1000, 10))


def test_state_is_that_of_a_run_on_such_a_mesh(found, real):
    factory = real.state_factory
    for name, tree, places in (
        ("params", factory.shapes.params, factory.shardings.params),
        ("moments", factory.shapes.opt_state, factory.shardings.opt_state),
        ("average", factory.shapes.ema, factory.shardings.ema),
    ):
        assert getattr(found.state, name) == bytes_a_device(tree, places), name


def test_counts_are_the_models(found, real):
    assert sum(found.parameters.values()) == found.trained
    assert found.trained == sum(x.size for x in jax.tree.leaves(real.state_factory.shapes.params))
    assert sum(found.flops.values()) == real.module.flops()
    assert found.rows == 32 // 8
    assert [at.tokens for at in found.sizes] == [17, 65, 257]


def test_rematerialisation_keeps_less(found):
    sizes = [found.kept_by_remat[name] for name in ("none", "dots_saveable", "full")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == sum(found.kept.values())


def test_what_fits_is_the_last_that_does(found):
    """The answer for a chip from the program for as many images, and for one more."""
    step = tiny.traced(NAME, 2, img_size=64, depth=2, dtype="bfloat16")
    fit = next(x for x in found.fits if x.chip == "TPU v5e")
    free = (fit.usable - found.state.total) / MARGIN
    assert fit.fused  # a kernel, which keeps no scores
    programs = [step.gradient(rows) for rows in (fit.train, fit.train + 1)]
    sizes = [live.timeline(program, step.is_score).max() for program in programs]
    slack = found.gradients * 4  # the device of the mesh holds a fourth of them
    assert sizes[0] - slack <= free < sizes[1] + slack


def test_fused_attention_of_bfloat16_is_where_chips_have_kernels_for_it(found):
    assert {x.chip for x in found.fits if not x.fused} == {"TPU v3 (core)"}


def test_chips_have_their_memory(monkeypatch):
    chips = {chip.name: chip for chip in CHIPS}
    assert {name: round(chips[name].memory / 1e9) for name in ("T4", "H100", "H200")} == {
        "T4": 16,
        "H100": 80,
        "H200": 141,
    }
    assert chips["TPU v5e"].memory == 16 * 2**30
    assert chips["H100"].usable == 60e9
    monkeypatch.setenv(FRACTION, "0.9")
    assert chips["H100"].usable == 72e9
    for text in ("most", "0", "nan"):
        monkeypatch.setenv(FRACTION, text)
        with pytest.raises(UserError, match=f"{FRACTION} is '{text}'"):
            _ = chips["H100"].usable


def test_text_fits_a_terminal_and_json_has_all(found):
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert f"{found.model}: {found.trained:,} parameters" in lines
    told = json.loads(found.to_json())
    assert set(told) == {f.name for f in dataclasses.fields(found)} | {"totals"}
    assert told["totals"]["step"] == found.state.total + found.peak == found.total


def test_sources_are_the_same_run(tmp_path):
    """A recipe, the folder of a run, a converted model, and a name."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from vit_jax.training.config import base_config\n\n\ndef get_config():\n"
        "    config = base_config()\n    config.total_steps = 1\n    config.model.depth = 2\n"
        "    config.model.num_classes = 10\n    return config\n"
    )
    run = base_config()
    run.total_steps, run.model.num_classes, run.model.depth = 1, 10, 2
    run_folder.claim(tmp_path / "run", resolve(run, 1000, 10))
    module = models.create_model(NAME, depth=2, num_classes=10)
    drawn = module.init(jax.random.key(0), jax.numpy.zeros((1, 224, 224, 3)))["params"]
    folder.save(tmp_path / "model", folder.Model(module, drawn, models.preprocessing(NAME), NAME))
    sources = (recipe, tmp_path / "run", tmp_path / "model")
    found = [configuration(source).model.to_dict() for source in sources]
    found.append(configuration(NAME, ["model.depth=2", "model.num_classes=10"]).model.to_dict())
    assert all(x == found[0] for x in found), found


def test_a_model_without_a_head_gets_one_and_says_so():
    found = inspect_model("vit_small_patch14_dinov2", image_size=28, overrides=["model.depth=1"])
    assert found.parameters["head"] == 384 * 1000 + 1000
    assert "no head" in found.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.NAMES)
def test_every_family(name):
    overrides = [f"model.{key}={value!r}" for key, value in tiny.NAMES[name].items()]
    found = inspect_model(name, batch_size=4, overrides=overrides)
    module = tiny.module(name)
    assert sum(found.flops.values()) == module.flops()
    assert 2.5 < found.training_flops / module.flops() < 3.01
    assert (found.kept_by_hand is None) == name.startswith("swin")
    assert max(map(len, str(found).splitlines())) <= 80


@pytest.mark.parametrize(
    "source, options, error, message",
    [
        ("vit_tiny_patch16_22", {}, UserError, "did you mean 'vit_tiny_patch16_224'"),
        ("nonsense", {}, MissingFileError, "no model"),
        ("no/recipe.py", {}, MissingFileError, "no recipe at"),
        (NAME, dict(image_size=65), UserError, "use 64 or 80"),
        (NAME, dict(batch_size=0), UserError, "batch_size is 0"),
        (NAME, dict(batch_size=9, mesh={"data": 2}), UserError, "use 8 or 10"),
        (NAME, dict(mesh={"date": 2}), UserError, "did you mean 'data'"),
        (NAME, dict(overrides=["model.dept=2"]), UserError, "did you mean 'depth'"),
    ],
)
def test_errors(source, options, error, message):
    with pytest.raises(error, match=message):
        inspect_model(source, **options)


@pytest.mark.slow
def test_a_part_that_is_trained_and_a_batch_in_parts():
    """With a frozen body its parameters are state, and only gradients of the head are summed."""
    overrides = [*OVERRIDES, "accumulate_steps=2", "optim.frozen=('encoder/*',)"]
    found = inspect_model(NAME, image_size=64, batch_size=8, overrides=overrides)
    whole = inspect_model(NAME, image_size=64, batch_size=8, overrides=OVERRIDES)
    assert (found.rows, found.kept_by_hand) == (4, None)
    assert found.state.params + found.state.other == whole.state.params
    assert found.gradients == found.state.params == 4 * found.trained
    # The patch embedding is trained, so gradients pass through every softmax, of half the images.
    assert 2 * found.kept["attention scores"] == whole.kept["attention scores"]
