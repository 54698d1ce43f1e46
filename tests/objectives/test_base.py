"""The protocol, exercised by an objective that uses all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vit_jax
from tests.objectives.toy_objective import ToyDistillation
from vit_jax.objectives import Objective


class Context:
    """What the loop lends to an evaluation, on one batch whose last rows are padding."""

    def __init__(self, params, extra, batch, real):
        self.params, self.extra, self._batch, self._real = params, extra, batch, real

    def masked_means(self, per_example):
        values = per_example(self.params, self.extra, self._batch)
        return {name: float(x[: self._real].mean()) for name, x in values.items()}


@pytest.fixture(scope="module")
def objective():
    module = vit_jax.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        embed_dim=8,
        depth=1,
        num_heads=2,
        num_classes=3,
    )
    return ToyDistillation(module)


@pytest.fixture(scope="module")
def batch():
    image = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    return {"image": jnp.asarray(image, jnp.float32), "label": jnp.arange(4) % 3}


def step(objective, optimizer, params, extra, state, batch, number):
    """The loop's order of calls."""
    grad = jax.grad(objective.loss, has_aux=True)
    grads, (_, extra) = grad(params, extra, batch, jax.random.key(number), number)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return params, objective.after_update(params, extra, number), state


def test_extra_parameters_train_and_the_average_follows(objective, batch):
    params, extra = objective.init(jax.random.key(0), batch)
    # A fresh ViT's head is zero, which would make teacher and student agree on zero.
    for tree in (params["student"], extra["teacher"]):
        kernel = tree["head"]["kernel"]
        tree["head"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    optimizer = optax.sgd(0.1)
    state = optimizer.init(params)
    one_step = jax.jit(lambda *args: step(objective, optimizer, *args))
    before, teacher = params, extra["teacher"]
    for number in range(3):
        params, extra, state = one_step(params, extra, state, batch, number)
        teacher = jax.tree.map(lambda t, s: 0.5 * t + 0.5 * s, teacher, params["student"])
    assert not np.allclose(params["projection"], before["projection"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        extra["teacher"],
        teacher,
    )
    assert int(extra["seen"]) == 12


def test_the_teacher_gets_no_gradient(objective, batch):
    params, extra = objective.init(jax.random.key(0), batch)

    def loss(teacher):
        return objective.loss(params, {**extra, "teacher": teacher}, batch, jax.random.key(0), 0)[0]

    grads = jax.grad(loss)(extra["teacher"])
    assert all(not x.any() for x in jax.tree.leaves(grads))


def test_an_objective_may_evaluate_in_its_own_way(objective, batch):
    params, extra = objective.init(jax.random.key(0), batch)
    kernel = extra["teacher"]["head"]["kernel"]
    extra["teacher"]["head"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    error = np.asarray(objective.evaluate(params, extra, batch)["error"])[:3]
    result = objective.evaluation(Context(params, extra, batch, real=3))
    assert result["error"] == pytest.approx(error.mean(), rel=1e-6)
    assert result["error_std"] == pytest.approx(error.std(), rel=1e-5)


def test_names_of_axes_match_everything_the_objective_owns(objective, batch):
    shapes = jax.eval_shape(objective.init, jax.random.key(0), batch)
    is_names = lambda x: isinstance(x, tuple) and all(n is None or isinstance(n, str) for n in x)  # noqa: E731
    for tree, axes in zip(shapes, objective.logical_axes(batch), strict=True):
        ranks = jax.tree.map(len, axes, is_leaf=is_names)
        assert ranks == jax.tree.map(lambda x: len(x.shape), tree)


def test_a_method_left_out_is_named(objective, batch):
    bare = Objective(objective.module)
    params, extra = bare.init(jax.random.key(0), batch)
    assert bare.after_update(params, extra, 0) is extra
    with pytest.raises(NotImplementedError, match=r"Objective has to define loss\(\)"):
        bare.loss(params, extra, batch, jax.random.key(0), 0)
    with pytest.raises(NotImplementedError, match=r"Objective has to define evaluate\(\)"):
        bare.evaluation(Context(params, extra, batch, real=4))
