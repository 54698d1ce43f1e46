"""From the configuration as it was written to the one that is run: complete and consistent."""

from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.errors import UserError
from vit_jax.training import overrides
from vit_jax.training.allowed import check_values
from vit_jax.training.config import OPEN_SECTIONS, base_config, open_and_lock
from vit_jax.training.schedules import duration, lengths


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
      UserError: see `check`; or a duration is given in steps and in epochs.
    """
    check(config)
    config = open_and_lock(config.copy_and_resolve_references())
    per_epoch = train_examples / config.data.batch_size
    _in_steps(config, "total", per_epoch, least=1)
    if config.total_steps is None:
        raise UserError("the length of the run is missing: set total_steps or total_epochs")
    _check_profile(config.profile, config.total_steps)
    lengths(config.schedule, config.total_steps, per_epoch)  # while its epochs can be named
    for what, least in (
        ("schedule.warmup", 0),
        ("schedule.cooldown", 0),
        ("checkpoint.every", 1),
        ("eval_every", 1),
    ):
        _in_steps(config, what, per_epoch, least)
    if config.model.get("num_classes") is None:
        # A model that has no head, such as a masked autoencoder, takes no classes.
        fits = models.field_ranges(config.model.name)["num_classes"].fits(classes)
        config.model.num_classes = classes if fits else 0
    if config.data.eval_batch_size is None:
        config.data.eval_batch_size = config.data.batch_size
    return config


def _check_profile(steps: tuple[int, int] | None, total: int) -> None:
    if steps is not None and steps[1] > total:
        raise UserError(
            f"profile is {tuple(steps)}, and the run has {total} steps: expected a first and a "
            "last step of these"
        )


def _in_steps(config: ConfigDict, what: str, per_epoch: float, least: int) -> None:
    """Replaces a duration in place by its number of steps."""
    *sections, name = what.split(".")
    section = config[sections[0]] if sections else config
    steps, epochs = f"{name}_steps", f"{name}_epochs"
    section[steps] = duration(what, section[steps], section[epochs], per_epoch, least)
    section[epochs] = None


def check(config: ConfigDict) -> None:
    """Looks for keys that are unknown or missing, and for values of a wrong type or out of range.

    It looks at no data and at no devices, so it comes before everything else.

    Raises:
      UserError: says which key, what it is and what was expected.
    """
    known = overrides.flat_keys(base_config())
    given = overrides.flat_keys(config)
    for key in given:
        inside = [name for name in known if name.startswith(f"{key}.")]
        if inside:
            value = overrides.value_of(config, key)
            raise UserError(f"{key} is {value!r}; expected a section, with {', '.join(inside)}")
        if key not in known and key.split(".")[0] not in OPEN_SECTIONS:
            raise UserError(overrides.unknown_key(key, known))
    for key in known:
        if key not in given and not _may_be_missing(key):
            raise UserError(f"{key} is missing; start a recipe from base_config()")
    check_values(config)


def _may_be_missing(key: str) -> bool:
    """Whether a key is one of the fields or options that have defaults of their own."""
    section, _, name = key.partition(".")
    return section in ("model", "objective") and name != "name"


def check_batches(config: ConfigDict, shards: int) -> None:
    """Looks whether batches can be split over the mesh.

    Args:
      config: resolved.
      shards: number of parts a batch is split into.

    Raises:
      UserError: with the nearest sizes that can be.
    """
    for key, parts in (("batch_size", config.accumulate_steps), ("eval_batch_size", 1)):
        size, unit = config.data[key], shards * parts
        if size % unit:
            below, above = size // unit * unit, -(-size // unit) * unit
            parts_text = f" times {parts} accumulation steps" if parts > 1 else ""
            raise UserError(
                f"data.{key} {size} is not divisible by {unit} ({shards} shards of the mesh"
                f"{parts_text}); use {f'{below} or ' if below else ''}{above}"
            )
