"""Nearest neighbours against scikit-learn's, and the whole command on the digits."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from sklearn.neighbors import KNeighborsClassifier

import vit_jax
from tests.training import tiny
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.evaluation import neighbours
from vit_jax.models import unstack_blocks
from vit_jax.training.trained import trained_model


def unit(rng, *shape):
    found = rng.normal(size=shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_scikit_learn(monkeypatch, temperature):
    """In parts, the last one smaller than k; classes with few examples."""
    monkeypatch.setattr(neighbours, "BANK_ROWS", 23)
    monkeypatch.setattr(neighbours, "QUERY_ROWS", 11)
    rng = np.random.default_rng(0)
    bank, queries = unit(rng, 100, 6), unit(rng, 40, 6)
    labels, right = rng.integers(5, size=100), rng.integers(5, size=40)
    labels[labels == 4] = rng.integers(4, size=(labels == 4).sum())  # a class without examples
    found = neighbours.accuracies(bank, labels, queries, right, 5, (1, 30), temperature)
    for k in (1, 30):
        theirs = KNeighborsClassifier(
            k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
        ).fit(bank, labels)
        assert found[f"knn_{k}"] == theirs.score(queries, right)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The tiny recipe from a model whose blocks do nothing: its features are patches' means."""
    config = tiny.get_config()
    options = dict(config.model) | {"scan": False, "num_classes": 10}
    module = vit_jax.create_model(options.pop("name"), **options)
    zeros = np.zeros((1, 8, 8, 1), np.float32)
    params = jax.jit(module.init)(jax.random.key(0), zeros)["params"]
    path = tmp_path_factory.mktemp("source") / "model"
    preprocessing = vit_jax.preprocessing("vit_tiny_patch16_224")
    folder.save(path, folder.Model(module, params, preprocessing))
    config.init_from = str(path)
    return config


def test_on_digits_it_counts_every_example_once(config):
    config = config.copy_and_resolve_references()
    config.mesh = {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    said = []
    found = vit_jax.evaluate_knn(config, neighbours=(1, 10), report=said.append)
    assert said[-1].startswith("360 of test by 1,437 of the training:\n     1 neighbours ")
    # A random network keeps most of what a picture shows; chance is 0.1.
    assert min(found.values()) > 0.3
    assert all(float(360 * x).is_integer() for x in found.values())


@pytest.mark.slow
def test_a_linear_probe_trains_the_head_alone(config, tmp_path):
    """The encoder stays as it was, bit for bit; what goes out does what was evaluated."""
    config = config.copy_and_resolve_references()
    config.model.update(drop_rate=0.0, scan=True)
    config.objective.name = "linear_probe"
    config.total_steps, config.ema_decay, config.optim.name = 6, 0.0, "sgd"
    result = vit_jax.train(config, tmp_path / "run")
    trained = {"/".join(path) for path in traverse_util.flatten_dict(result.state.params)}
    assert trained == {"head/kernel", "head/bias"}
    model = trained_model(tmp_path / "run", report=lambda text: None)
    before = folder.read(config.init_from)
    for name, tree in unstack_blocks(model.params)["encoder"].items():
        jax.tree.map(np.testing.assert_array_equal, tree, before.params["encoder"][name])
    assert np.abs(model.params["head"]["kernel"]).max() > 0

    folder.save(tmp_path / "out", model)
    config.objective.name = "classification"
    config.init_from, config.total_steps, config.optim.lr = str(tmp_path / "out"), 1, 1e-9
    config.schedule.warmup_steps = 0
    again = vit_jax.train(config, tmp_path / "again")
    np.testing.assert_allclose(again.metrics["loss"], result.metrics["loss"], rtol=1e-5)


def test_bad_input(config):
    for options, message in [
        (dict(neighbours=(0,)), "0 neighbours, of 1437 examples: expected 1 to 1437"),
        (dict(neighbours=(2000,)), "2000 neighbours"),
        (dict(temperature=0.0), "temperature is 0.0"),
    ]:
        with pytest.raises(UserError, match=message):
            vit_jax.evaluate_knn(config, **options)
    other = tiny.get_config()
    with pytest.raises(UserError, match="init_from is None"):
        vit_jax.evaluate_knn(other)
