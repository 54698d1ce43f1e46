import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.training.schedules import SCHEDULE_DEFAULTS, duration, make_schedule

PEAK, TOTAL = 0.3, 1000


def schedule(total=TOTAL, steps_per_epoch=100, **config):
    return make_schedule(config, peak=PEAK, total_steps=total, steps_per_epoch=steps_per_epoch)


def values(function, total=TOTAL):
    return np.asarray(jax.vmap(function)(jnp.arange(total + 1)), np.float64)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final):
    lr = schedule(name="cosine", warmup_steps=100, final_lr=final)
    low = final * PEAK

    def expected(step):
        if step < 100:
            return PEAK * step / 100
        return low + (PEAK - low) * 0.5 * (1 + math.cos(math.pi * (step - 100) / 900))

    for step in (0, 1, 50, 100, 101, 325, 550, 999, 1000):
        assert float(lr(step)) == pytest.approx(expected(step), abs=1e-7)
    assert float(lr(550)) == pytest.approx((PEAK + low) / 2)  # half way


def test_linear():
    lr = schedule(name="linear", warmup_steps=200, final_lr=0.2)
    got = [float(lr(s)) for s in (0, 100, 200, 600, 999, 1000)]
    line = [0, 0.5, 1, 0.6, 0.2 + 0.8 / 800, 0.2]
    np.testing.assert_allclose(got, PEAK * np.array(line), atol=1e-7)


def test_constant_with_cooldown_is_a_trapezoid():
    lr = schedule(name="constant", warmup_steps=100, cooldown_steps=400, initial_lr=0.5)
    got = [float(lr(s)) for s in (0, 50, 100, 600, 800, 999, 1000)]
    np.testing.assert_allclose(got, PEAK * np.array([0.5, 0.75, 1, 1, 0.5, 1 / 400, 0]), atol=1e-7)


def test_rsqrt_starts_at_the_peak_and_cools_down():
    lr = schedule(name="rsqrt", warmup_steps=100, cooldown_steps=100, timescale=50)
    assert float(lr(100)) == pytest.approx(PEAK)
    assert float(lr(250)) == pytest.approx(PEAK / 2)  # 1 + 150 / 50 = 4
    top = PEAK / math.sqrt(1 + 800 / 50)
    assert float(lr(900)) == pytest.approx(top)
    assert float(lr(950)) == pytest.approx(top / 2)
    assert float(lr(1000)) == 0


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_cooldown_of_a_decayed_schedule_holds_the_final_value(name):
    lr = values(schedule(name=name, cooldown_steps=200, final_lr=0.1))
    np.testing.assert_allclose(lr[800:], 0.1 * PEAK, rtol=1e-6)
    assert lr[799] > lr[800]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "rsqrt"])
@pytest.mark.parametrize("warmup", [0, 1, 300])
@pytest.mark.parametrize("cooldown", [0, 1, 300])
def test_pieces_meet(name, warmup, cooldown):
    lr = values(schedule(name=name, warmup_steps=warmup, cooldown_steps=cooldown, timescale=100))
    assert lr.max() == pytest.approx(PEAK) and lr.argmax() >= min(warmup, 1)
    assert lr[warmup] == pytest.approx(PEAK)
    # No jump but those of a warm-up or cool-down of one step. The steepest slope of the rest is
    # that of the warm-up or cool-down, of the cosine half way or of rsqrt at its start.
    jumps = np.abs(np.diff(lr))
    if warmup == 1:
        jumps[0] = 0
    if cooldown == 1:
        jumps[-1] = 0
    assert jumps.max() <= 1.01 * PEAK * max(1 / 300, math.pi / 2 / 400, 1 / 2 / 100)


def test_the_step_may_be_traced_and_beyond_the_run():
    lr = schedule(name="cosine", warmup_steps=10, final_lr=0.1)
    assert float(jax.jit(lr)(jnp.int32(5))) == pytest.approx(PEAK / 2)
    assert float(lr(10 * TOTAL)) == pytest.approx(0.1 * PEAK)


def test_epochs_are_steps():
    in_epochs = schedule(steps_per_epoch=62.5, name="constant", warmup_epochs=2, cooldown_epochs=4)
    in_steps = schedule(name="constant", warmup_steps=125, cooldown_steps=250)
    np.testing.assert_array_equal(values(in_epochs), values(in_steps))


def test_defaults_are_cosine_to_zero_without_warmup():
    np.testing.assert_array_equal(values(schedule()), values(schedule(**SCHEDULE_DEFAULTS)))
    assert float(schedule()(0)) == pytest.approx(PEAK) and float(schedule()(TOTAL)) == 0


def test_a_triangle_has_no_body():
    lr = schedule(name="constant", warmup_steps=400, cooldown_steps=600)
    np.testing.assert_allclose([lr(200), lr(400), lr(700)], [PEAK / 2, PEAK, PEAK / 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("message", "config"),
    [
        (
            "run of 1000 steps is too short for schedule.warmup_steps=600 and "
            "schedule.cooldown_steps=401; make",
            dict(warmup_steps=600, cooldown_steps=401),
        ),
        (
            r"short for schedule.warmup_epochs=6.5 \(650 steps\) and "
            r"schedule.cooldown_epochs=4 \(400 steps\); make",
            dict(warmup_epochs=6.5, cooldown_epochs=4),
        ),
        (
            "too short for schedule.warmup_steps=1000 and then a cosine schedule",
            dict(warmup_steps=1000),
        ),
        (
            "^schedule.warmup_steps=10 and schedule.warmup_epochs=1 are both given",
            dict(warmup_steps=10, warmup_epochs=1),
        ),
        ("^schedule.cooldown_steps is -1; expected a whole number", dict(cooldown_steps=-1)),
        ("^schedule.cooldown_steps is 1.5; expected a whole number", dict(cooldown_steps=1.5)),
        ("^schedule.cooldown_epochs is -0.5; expected a number, 0 or", dict(cooldown_epochs=-0.5)),
        ("^schedule.warmup_epochs is 'abc'; expected a number", dict(warmup_epochs="abc")),
        ("^schedule.warmup_steps is True; expected a whole number", dict(warmup_steps=True)),
        ("did you mean 'cosine'", dict(name="cosin")),
        ("did you mean 'warmup_steps'", dict(warm_steps=3)),
        ("schedule.final_lr is 2; expected a fraction of the peak", dict(final_lr=2)),
        ("schedule.initial_lr=0.1 needs a warm-up", dict(initial_lr=0.1)),
        (
            "schedule.final_lr=0.1 needs a cool-down with schedule 'constant'",
            dict(name="constant", final_lr=0.1),
        ),
        ("schedule.timescale is 0; expected a number above 0", dict(name="rsqrt", timescale=0)),
    ],
)
def test_impossible_settings_are_refused(message, config):
    with pytest.raises(UserError, match=message):
        schedule(**config)


def test_float64_where_jax_has_it():
    """A rate that was rounded to float32 moves parameters by more than float64 should."""
    with jax.enable_x64(True):
        linear = schedule(name="linear", warmup_steps=7)
        for step in (0, 3, 7, 50):
            expected = step / 7 if step <= 7 else 1 - (step - 7) / (TOTAL - 7)
            found = linear(jnp.asarray(step, jnp.int32))
            assert found.dtype == jnp.float64
            assert abs(float(found) - PEAK * expected) <= 1e-15


def test_duration():
    assert duration("eval", None, None, 10) is None
    assert duration("eval", 0, None, 10) == 0
    assert duration("eval", 7, None, 10) == 7
    assert duration("eval", None, 0.25, 10.4) == 3  # 2.6 steps
    with pytest.raises(UserError, match="eval_steps=1 and eval_epochs=2"):
        duration("eval", 1, 2, 10)
    with pytest.raises(UserError, match=r"^eval_epochs is 0\.04, which is 0 steps, 10 an epoch"):
        duration("eval", None, 0.04, 10, least=1)
    with pytest.raises(UserError, match=r"^eval_steps is 0; expected a whole number, 1 or more"):
        duration("eval", 0, None, 10, least=1)
