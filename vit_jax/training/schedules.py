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

from vit_jax import naming, ranges
from vit_jax.errors import UserError

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
NAMES = (*_ENDS_AT_FINAL, "constant", "rsqrt")

_STEPS = ranges.or_none(ranges.whole(0))
_EPOCHS = ranges.or_none(ranges.NOT_NEGATIVE)
_OF_THE_PEAK = ranges.number("a fraction of the peak, 0 to 1", lambda x: 0 <= x <= 1)

# What each setting but the name may be.
SCHEDULE_RANGES: dict[str, ranges.Range] = {
    "warmup_steps": _STEPS,
    "warmup_epochs": _EPOCHS,
    "cooldown_steps": _STEPS,
    "cooldown_epochs": _EPOCHS,
    "initial_lr": _OF_THE_PEAK,
    "final_lr": _OF_THE_PEAK,
    "timescale": ranges.POSITIVE,
}


def duration(
    what: str,
    steps: int | None,
    epochs: float | None,
    steps_per_epoch: float,
    least: int = 0,
) -> int | None:
    """Returns a duration in steps that was given in steps or in epochs.

    Args:
      what: its keys without "_steps" and "_epochs", such as "schedule.warmup", for errors.
      steps: the duration in steps, or None.
      epochs: the duration in epochs, or None; rounded to the nearest step.
      steps_per_epoch: length of an epoch.
      least: the smallest number of steps that makes sense.

    Returns:
      The number of steps, None where neither was given.

    Raises:
      UserError: both were given, or less than `least` steps.
    """
    if steps is not None and epochs is not None:
        raise UserError(
            f"{what}_steps={steps} and {what}_epochs={epochs} are both given; give one, "
            "set the other to None"
        )
    allowed = {"_steps": ranges.or_none(ranges.whole(least)), "_epochs": _EPOCHS}
    ranges.check({"_steps": steps, "_epochs": epochs}, allowed, what)
    if epochs is None:
        return steps
    result = round(epochs * steps_per_epoch)
    if result < least:
        raise UserError(
            f"{what}_epochs is {epochs}, which is {result} steps, {steps_per_epoch:g} an epoch; "
            f"expected {least} or more"
        )
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
      UserError: unknown name or key, a setting that the named schedule would ignore, or durations
        that do not fit into the run.
    """
    c = {**SCHEDULE_DEFAULTS, **config}
    warmup, cooldown = lengths(config, total_steps, steps_per_epoch)
    body_steps = total_steps - warmup - cooldown
    final = c["final_lr"] * peak
    body = _body(c["name"], peak, final, body_steps, c["timescale"])
    pieces, boundaries = [body], []
    if warmup:
        start = c["initial_lr"] * peak
        pieces.insert(0, optax.linear_schedule(start, peak, warmup))
        boundaries.append(warmup)
    if cooldown:
        pieces.append(optax.linear_schedule(float(body(float(body_steps))), final, cooldown))
        boundaries.append(total_steps - cooldown)
    joined = optax.join_schedules(pieces, boundaries)
    # JAX divides whole numbers in float32 even under jax_enable_x64: made wide before.
    return lambda step: joined(jnp.asarray(step, jax.dtypes.canonicalize_dtype(jnp.float64)))


def lengths(config: Any, total_steps: int, steps_per_epoch: float) -> tuple[int, int]:
    """Returns how many steps warm-up and cool-down last, once all settings have been looked at.

    Args:
      config: a mapping with the keys of `SCHEDULE_DEFAULTS`; a missing key has its default.
      total_steps: T, the length of the run.
      steps_per_epoch: to convert durations in epochs.

    Raises:
      UserError: as `make_schedule`.
    """
    naming.check_known("schedule setting", config, SCHEDULE_DEFAULTS)
    c = {**SCHEDULE_DEFAULTS, **config}
    naming.check_known("schedule.name", [c["name"]], NAMES)
    ranges.check(c, SCHEDULE_RANGES, "schedule.")
    warmup, cooldown = (
        duration(f"schedule.{what}", c[f"{what}_steps"], c[f"{what}_epochs"], steps_per_epoch) or 0
        for what in ("warmup", "cooldown")
    )
    _check_room(c, warmup, cooldown, total_steps)
    _check_fractions(c, warmup, cooldown)
    return warmup, cooldown


def _check_room(c: dict[str, Any], warmup: int, cooldown: int, total_steps: int) -> None:
    """Raises UserError where warm-up and cool-down leave no room for the body."""
    room = total_steps - warmup - cooldown
    if room > 0 or (room == 0 and c["name"] not in _ENDS_AT_FINAL):
        return
    given = []
    for what, steps in (("warmup", warmup), ("cooldown", cooldown)):
        epochs = c[f"{what}_epochs"]
        if epochs is not None:
            given.append(f"schedule.{what}_epochs={epochs} ({steps} steps)")
        elif steps:
            given.append(f"schedule.{what}_steps={steps}")
    body = f" and then a {c['name']} schedule" if room == 0 else ""
    raise UserError(
        f"a run of {total_steps} steps is too short for {' and '.join(given)}{body}; "
        "make the run longer, or them shorter"
    )


def _check_fractions(c: dict[str, Any], warmup: int, cooldown: int) -> None:
    """Raises UserError for a fraction of the peak that the schedule would ignore."""
    if c["initial_lr"] and not warmup:
        raise UserError(
            f"schedule.initial_lr={c['initial_lr']} needs a warm-up: give schedule.warmup_steps or "
            "schedule.warmup_epochs"
        )
    if c["final_lr"] and not cooldown and c["name"] not in _ENDS_AT_FINAL:
        raise UserError(
            f"schedule.final_lr={c['final_lr']} needs a cool-down with schedule {c['name']!r}: "
            "give schedule.cooldown_steps or schedule.cooldown_epochs"
        )


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
