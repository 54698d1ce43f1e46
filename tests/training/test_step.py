import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.linear import Linear
from vit_jax.training import sharding, step
from vit_jax.training.state import StateFactory, keys

MEAN, STD = (0.2, 0.4), (0.5, 0.25)
RULES = sharding.make_rules({"batch": ("data", "fsdp"), "embed": ("fsdp",)})
SHAPE = {
    "image": jax.ShapeDtypeStruct((1, 2, 2, 2), jnp.float32),
    "label": jax.ShapeDtypeStruct((1,), jnp.int32),
}


def some_batch(number=0, rows=32):
    rng = np.random.default_rng(number)
    return {
        "image": rng.integers(0, 256, (rows, 2, 2, 2), np.uint8),
        "label": rng.integers(0, 10, rows, np.int32),
        "skipped": np.arange(rows, dtype=np.int32) % 3,
    }


def run(steps=3, accumulate=1, ema_decay=0.0, seed=0, optimizer=None, sizes=(2, 4, 1)):
    """Some updates of the linear objective on eight devices: the states and the metrics."""
    mesh = sharding.make_mesh({**dict(zip(("data", "fsdp", "tensor"), sizes)), "sequence": 1})
    optimizer = optimizer or optax.adam(1e-2)
    objective = Linear(module=None)
    factory = StateFactory(
        objective, optimizer, SHAPE, seed=seed, with_ema=ema_decay > 0, mesh=mesh, rules=RULES
    )
    place = sharding.batch_sharding(mesh, RULES)
    train_step = step.make_train_step(
        objective,
        optimizer,
        optax.linear_schedule(1.0, 0.0, 4),
        step.make_normalize(MEAN, STD),
        seed=seed,
        accumulate=accumulate,
        ema_decay=ema_decay,
        state_shardings=factory.shardings,
        batch_sharding=place,
    )
    states, metrics = [factory.create()], []
    kept = [jax.device_get(states[0])]
    for number in range(steps):
        state, values = train_step(states.pop(), jax.device_put(some_batch(number), place))
        states.append(state)
        kept.append(jax.device_get(state))
        metrics.append(jax.device_get(values))
    return kept, metrics


def test_normalization():
    batch = some_batch()
    found = step.make_normalize(MEAN, STD)({**batch, "mask": np.ones(32, np.float32)})
    assert found.keys() == {"image", "label"}
    assert found["image"].dtype == jnp.float32
    expected = (batch["image"].astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(found["image"], expected, rtol=1e-6, atol=1e-6)
    with jax.enable_x64(True):
        image = step.make_normalize(MEAN, STD)(batch)["image"]
        np.testing.assert_allclose(image, expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_is_the_big_batch(parts):
    """Equal up to rounding: in float64 to 1e-13, where each sum has at most 32 terms."""
    with jax.enable_x64(True):
        (*_, whole), whole_metrics = run()
        (*_, split), split_metrics = run(accumulate=parts)
    assert whole.params["w"].dtype == np.float64
    np.testing.assert_allclose(split.params["w"], whole.params["w"], rtol=1e-13)
    for name in ("loss", "gradient_norm", "parameter_norm", "skipped"):
        ours, theirs = ([m[name] for m in x] for x in (split_metrics, whole_metrics))
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    assert (whole.extra["parts"], split.extra["parts"]) == (3, 3 * parts)


def test_rows_stay_on_their_devices():
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2, "sequence": 1, "tensor": 1})
    place = sharding.batch_sharding(mesh, RULES)
    batch = {"image": jax.ShapeDtypeStruct((32, 2, 2, 2), jnp.uint8, sharding=place)}
    compiled = jax.jit(lambda b: step._split(b, 2, place)).lower(batch).compile().as_text()
    for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert word not in compiled
    rows = jax.device_put(np.arange(32), place)
    parts = jax.jit(lambda x: step._split({"x": x}, 2, place)["x"])(rows)
    assert sorted(np.asarray(parts).ravel()) == list(range(32))


def test_metrics():
    states, metrics = run()
    for number, values in enumerate(metrics):
        assert values["learning_rate"] == 1.0 - number / 4
        norm = np.linalg.norm(states[number + 1].params["w"])
        np.testing.assert_allclose(values["parameter_norm"], norm, rtol=1e-6)
        assert values["skipped"] == np.count_nonzero(some_batch(number)["skipped"])
        assert states[number].step == number


def test_gradient_norm_is_that_of_the_gradient():
    (before, after), (values,) = run(steps=1, optimizer=optax.sgd(0.5))
    gradient = (before.params["w"] - after.params["w"]) / 0.5
    np.testing.assert_allclose(values["gradient_norm"], np.linalg.norm(gradient), rtol=1e-4)


def test_the_average_follows_the_parameters():
    states, _ = run(ema_decay=0.75)
    average = states[0].params["w"].astype(np.float64)
    for state in states[1:]:
        average = 0.75 * average + 0.25 * state.params["w"]
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6)
        assert state.averaged_params is state.ema
    assert run(steps=1)[0][-1].ema is None


def test_keys_are_a_function_of_seed_and_step():
    def noise(**options):
        return [float(values["noise"]) for values in run(**options)[1]]

    base = jax.random.key(5)
    expected = [
        float(jax.random.uniform(jax.random.fold_in(jax.random.fold_in(base, 1), number)))
        for number in range(3)
    ]
    np.testing.assert_allclose(noise(seed=5), expected, rtol=1e-6)
    assert len({*noise(seed=5), *noise(seed=6), *noise(seed=5, accumulate=2)}) == 9
    init, train = keys(5)
    assert not jnp.array_equal(jax.random.key_data(init), jax.random.key_data(train))
