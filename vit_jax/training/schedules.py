"""Learning-rate schedules: warm-up, a body, cool-down.

For a run of T steps, numbered 0 to T - 1, with a warm-up of W and a cool-down of C steps:

    steps 0 .. W        linear from initial_lr * peak to peak, reached at step W
    steps W .. T - C    the body:
        cosine    peak to final, half a cosine (Loshchilov & Hutter 2017, SGDR, eq. 5)
        linear    peak to final, a straight line
        constant  peak
        rsqrt     peak / sqrt(1 + (step - W) / timescale) (Zhai et al. 2022, "Scaling Vision
                  Transformers", section 3.5)
    steps T - C .. T    linear from where the body ends to final

with final = final_lr * peak. The pieces meet, so the schedule is continuous. `cosine` and
`linear` have reached final when a cool-down begins and stay there, as timm's cool-down epochs do.
Step T is not run: with no cool-down the last step, T - 1, is one step short of final.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax import naming

Schedule = Callable[[jax.Array | int], jax.Array]

SCHEDULE_DEFAULTS: dict[str, Any] = {
    "name": "cosine",  # cosine, linear, constant or rsqrt
    "warmup_steps": None,  # one of the two; neither: no warm-up
    "warmup_epochs": None,
    "cooldown_steps": None,  # one of the two; neither: no cool-down
    "cooldown_epochs": None,
    "initial_lr": 0.0,  # of the peak, where the warm-up starts
    "final_lr": 0.0,  # of the peak, where the run ends
    "timescale": 10_000,  # of rsqrt, in steps; the value of big_vision
}
_ENDS_AT_FINAL = ("cosine", "linear")
_NAMES = (*_ENDS_AT_FINAL, "constant", "rsqrt")


def duration(
    what: str, steps: int | None, epochs: float | None, steps_per_epoch: float
) -> int | None:
    """Returns a duration in steps that was given in steps or in epochs.

    Args:
      what: name for errors, such as "warmup".
      steps: the duration in steps, or None.
      epochs: the duration in epochs, or None; rounded to the nearest step.
      steps_per_epoch: length of an epoch.

    Returns:
      The number of steps, None where neither was given.

    Raises:
      ValueError: both were given, or one that is negative.
    """
    if steps is not None and epochs is not None:
        raise ValueError(
            f"{what}_steps={steps} and {what}_epochs={epochs} are both given; give one, "
            "set the other to None"
        )
    result = steps if epochs is None else round(epochs * steps_per_epoch)
    if result is not None and (result < 0 or result != int(result)):
        raise ValueError(f"{what} lasts {result} steps; expected a whole number from 0")
    return result


def make_schedule(
    config: Any, *, peak: float, total_steps: int, steps_per_epoch: float
) -> Schedule:
    """Builds the schedule that `config` describes.

    Args:
      config: a mapping with the keys of `SCHEDULE_DEFAULTS`; a missing key has its default.
      peak: the learning rate at the end of the warm-up.
      total_steps: T, the length of the run.
      steps_per_epoch: to convert durations in epochs.

    Returns:
      A function from the step (int or traced int array) to the learning rate.

    Raises:
      ValueError: unknown name or key, a setting that the named schedule would ignore, or durations
        that do not fit into the run.
    """
    naming.check_known("schedule setting", config, SCHEDULE_DEFAULTS)
    c = {**SCHEDULE_DEFAULTS, **config}
    name = c["name"]
    naming.check_known("schedule", [name], _NAMES)
    warmup, cooldown = (
        duration(what, c[f"{what}_steps"], c[f"{what}_epochs"], steps_per_epoch) or 0
        for what in ("warmup", "cooldown")
    )
    _check(c, warmup, cooldown, total_steps)

    body_steps = total_steps - warmup - cooldown
    final = c["final_lr"] * peak
    body = _body(name, peak, final, body_steps, c["timescale"])
    pieces, boundaries = [body], []
    if warmup:
        start = c["initial_lr"] * peak
        pieces.insert(0, optax.linear_schedule(start, peak, warmup))
        boundaries.append(warmup)
    if cooldown:
        pieces.append(optax.linear_schedule(float(body(body_steps)), final, cooldown))
        boundaries.append(total_steps - cooldown)
    return optax.join_schedules(pieces, boundaries)


def _body(name: str, peak: float, final: float, steps: int, timescale: float) -> Schedule:
    """The piece between warm-up and cool-down, as a function of the step within it."""
    if name == "cosine":
        return optax.cosine_decay_schedule(peak, steps, alpha=final / peak)
    if name == "linear":
        return optax.linear_schedule(peak, final, steps)
    if name == "constant":
        return optax.constant_schedule(peak)
    # join_schedules asks every piece about every step: before its start too, hence the maximum.
    return lambda step: peak / jnp.sqrt(1 + jnp.maximum(step, 0) / timescale)


def _check(c: dict[str, Any], warmup: int, cooldown: int, total_steps: int) -> None:
    """Raises ValueError for settings that contradict each other or the length of the run."""
    name = c["name"]
    lengths = f"a warm-up of {warmup} and a cool-down of {cooldown} steps"
    if warmup + cooldown > total_steps:
        raise ValueError(f"{lengths} do not fit into a run of {total_steps} steps; shorten them")
    if name in _ENDS_AT_FINAL and warmup + cooldown == total_steps:
        raise ValueError(
            f"{lengths} leave no step for the {name} schedule in a run of {total_steps}; "
            "shorten them"
        )
    for key in ("initial_lr", "final_lr"):
        if not 0 <= c[key] <= 1:
            raise ValueError(f"schedule.{key} is {c[key]}; expected a fraction of the peak, 0 to 1")
    if c["initial_lr"] and not warmup:
        raise ValueError("schedule.initial_lr needs a warm-up: give warmup_steps")
    if c["final_lr"] and not cooldown and name not in _ENDS_AT_FINAL:
        raise ValueError(f"schedule.final_lr needs a cool-down with schedule {name!r}")
    if c["timescale"] <= 0:
        raise ValueError(f"schedule.timescale is {c['timescale']} steps; expected more than 0")
