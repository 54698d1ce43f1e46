"""From the configuration as it was written to the one that is run: complete and consistent."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.training import overrides
from vit_jax.training.config import OPEN_SECTIONS, base_config, open_and_lock
from vit_jax.training.schedules import duration


def resolve(config: ConfigDict, train_examples: int, classes: int) -> ConfigDict:
    """Returns a copy with durations in steps and what follows from the data filled in.

    Args:
      config: the configuration of the run.
      train_examples: number of examples of the training split.
      classes: number of classes of the data.

    Returns:
      A locked configuration in which every `*_epochs` is None. An epoch has
      `train_examples / batch_size` steps; a duration is rounded to the nearest step.

    Raises:
      ValueError: see `check`; or a duration is given in steps and in epochs.
    """
    check(config)
    config = open_and_lock(config.copy_and_resolve_references())
    per_epoch = train_examples / config.data.batch_size
    for section, what in (
        (config, "total"),
        (config.schedule, "warmup"),
        (config.schedule, "cooldown"),
        (config.checkpoint, "every"),
        (config, "eval_every"),
    ):
        steps, epochs = f"{what}_steps", f"{what}_epochs"
        section[steps] = duration(what, section[steps], section[epochs], per_epoch)
        section[epochs] = None
    if config.total_steps is None:
        raise ValueError("the length of the run is missing: set total_steps or total_epochs")
    if config.model.get("num_classes") is None:
        config.model.num_classes = classes
    if config.data.eval_batch_size is None:
        config.data.eval_batch_size = config.data.batch_size
    # Once more: a duration of less than half a step has become none.
    _check_numbers({key: _value(config, key) for key in overrides.flat_keys(config)})
    return config


def check(config: ConfigDict) -> None:
    """Looks for keys that are unknown or missing, and for numbers out of range.

    Raises:
      ValueError: says which key, what it is and what was expected.
    """
    base = base_config()
    known = overrides.flat_keys(base)
    given = {key: _value(config, key) for key in overrides.flat_keys(config)}
    for key in given:
        if key not in known and key.split(".")[0] not in (*OPEN_SECTIONS, "sharding_rules"):
            raise ValueError(overrides.unknown_key(key, known))
    for key in known:
        if key.split(".")[0] in OPEN_SECTIONS:
            continue
        if key not in given:
            raise ValueError(f"{key} is missing; start a recipe from base_config()")
        default = _value(base, key)
        if given[key] is None and isinstance(default, bool | int | float | str):
            raise ValueError(f"{key} is None, expected {type(default).__name__} (as {default!r})")
    _check_numbers(given)


def _value(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _check_numbers(given: Mapping[str, Any]) -> None:
    for key in (
        "total_steps",
        "accumulate_steps",
        "log_every_steps",
        "eval_every_steps",
        "data.batch_size",
        "data.eval_batch_size",
        "checkpoint.every_steps",
        "checkpoint.keep_last",
    ):
        if given[key] is not None and given[key] < 1:
            raise ValueError(f"{key} is {given[key]}; expected 1 or more")
    if given["checkpoint.keep_best"] < 0:
        raise ValueError(f"checkpoint.keep_best is {given['checkpoint.keep_best']}; expected >= 0")
    if not 0 <= given["ema_decay"] < 1:
        raise ValueError(f"ema_decay is {given['ema_decay']}; expected 0 (none) <= decay < 1")
    if given["data.on_error"] not in ("stop", "skip"):
        raise ValueError(f"data.on_error is {given['data.on_error']!r}; expected 'stop' or 'skip'")


def check_batches(config: ConfigDict, shards: int, processes: int) -> None:
    """Looks whether batches can be split over the mesh.

    Args:
      config: resolved.
      shards: number of parts a batch is split into.
      processes: number of processes, each of which reads its part.

    Raises:
      ValueError: with the nearest sizes that can be.
    """
    for key, parts in (("batch_size", config.accumulate_steps), ("eval_batch_size", 1)):
        size, unit = config.data[key], shards * parts
        if processes > 1 and unit % processes:
            raise ValueError(
                f"the mesh splits a batch into {shards} parts, which {processes} processes cannot "
                "share equally; make config.mesh.data or config.mesh.fsdp larger"
            )
        if size % unit:
            below, above = size // unit * unit, -(-size // unit) * unit
            parts_text = f" times {parts} accumulation steps" if parts > 1 else ""
            raise ValueError(
                f"data.{key} {size} is not divisible by {unit} ({shards} shards of the mesh"
                f"{parts_text}); use {f'{below} or ' if below else ''}{above}"
            )
