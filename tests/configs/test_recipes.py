"""Every recipe builds as it stands: model, objective, optimizer, schedule, state and transforms.

Nothing is allocated and no data set is there: sizes are the recipe's own, arrays are shapes alone.
A recipe that starts from other weights is compared with the model that they are of, so that what
it announces in `init_changes` is what has to change.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.ahead.data_sizes import SIZES
from vit_jax.convert.folder import Model
from vit_jax.training import init_from, optim
from vit_jax.training.config import load_config
from vit_jax.training.experiment import Experiment, build_module
from vit_jax.training.resolve import resolve

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py"))
# Training examples and classes of the data that a recipe names; of one's own images any will do.
DATA = {**SIZES, "folder:images": (2000, 7)}
# What a published source is of: a model's name and its number of classes.
PUBLISHED = {
    "hf-hub:timm/vit_base_patch16_224.augreg_in21k": ("vit_base_patch16_224", 21_843),
}


def teacher(images):
    """Stands in for a teacher that is not there: grey pictures are digits."""
    return jnp.zeros((len(images), 10 if images.shape[-1] == 1 else 1000))


def resolved(name):
    config = load_config(CONFIGS / f"{name}.py")
    if config.objective.name == "distillation":
        config.objective.teacher = f"python:{__name__}:teacher"
    return resolve(config, *DATA[config.data.source])


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    """A recipe's resolved configuration and its experiment."""
    config = resolved(request.param)
    return request.param, config, Experiment(config, jax.devices()[:1])


def test_it_builds(recipe):
    _, config, experiment = recipe
    state = experiment.state_factory.targets()
    assert sum(leaf.size for leaf in jax.tree.leaves((state.params, state.extra))) > 1000
    assert (state.ema is None) == (config.ema_decay == 0)
    for transform in ("train_transform", "eval_transform"):
        experiment._transform(transform)


def test_its_schedule_rises_to_the_peak_and_ends(recipe):
    _, config, _ = recipe
    rate = optim.learning_rate(config, config.total_steps, 1.0)
    steps = np.linspace(0, config.total_steps - 1, 50).astype(int)
    warmup = config.schedule.warmup_steps or 0
    rates = np.array([float(rate(step)) for step in [*steps, warmup]])
    assert np.all((rates >= 0) & np.isfinite(rates))
    assert rates.max() == pytest.approx(config.optim.lr)
    assert rates[-2] < 0.1 * config.optim.lr


def test_its_loss_is_computed(recipe):
    _, _, experiment = recipe
    shapes = experiment.state_factory.shapes
    image = jax.ShapeDtypeStruct((8, *experiment.image_shape), jnp.float32)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((8,), jnp.int32)}
    with experiment.activate():
        loss, _ = jax.eval_shape(
            lambda p, e, b: experiment.objective.loss(p, e, b, jax.random.key(0), jnp.int32(0)),
            shapes.params,
            shapes.extra,
            batch,
        )
    assert loss.shape == () and loss.dtype == jnp.float32


def nothing(shapes):
    """Parameters that take no memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


def commands(name):
    """What a recipe's text says, options after the first two left out."""
    return re.sub(r"(--workdir \S+).*", r"\1", (CONFIGS / f"{name}.py").read_text())


def module_of(source):
    """The model that a published source holds, or the run of the recipe that trains it."""
    if source in PUBLISHED:
        name, classes = PUBLISHED[source]
        return vit_jax.create_model(name, num_classes=classes)
    (name,) = [name for name in RECIPES if f"{name}.py --workdir {source}\n" in commands(name)]
    return build_module(resolved(name).model)


def test_what_it_starts_from_fits(recipe):
    _, config, experiment = recipe
    if config.init_from is None:
        return
    old = module_of(config.init_from).clone(scan=experiment.module.scan)
    image = jax.ShapeDtypeStruct((1, *np.broadcast_to(old.img_size, 2), old.in_chans), "float32")
    shapes = jax.eval_shape(old.init, jax.random.key(0), image)["params"]
    source = Model(old, nothing(shapes), vit_jax.preprocessing(config.model.name))
    source = init_from._encoder_for(source, experiment.module)
    init_from._check_same_network(config, source.module, experiment.module)
    image = jax.ShapeDtypeStruct((1, *experiment.image_shape), "float32")
    wanted = jax.eval_shape(experiment.module.init, jax.random.key(0), image)["params"]
    _, report = init_from._adapted(config, experiment.module, source, nothing(wanted))
    assert len(report.taken) > len(report.drawn) + len(report.resampled)
