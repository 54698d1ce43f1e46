"""What each key of the configuration may be; its defaults are in `vit_jax.training.config`."""

from ml_collections import ConfigDict

from vit_jax import models, naming, objectives, ranges
from vit_jax.data.transforms import INTERPOLATIONS
from vit_jax.ranges import POSITIVE, RATE, TEXT, TRUE_OR_FALSE, Range, or_none, whole
from vit_jax.training import lora, optim, schedules, sharding, tpu_slices, trace
from vit_jax.training.overrides import flat_keys, value_of

INIT_CHANGES = ("resampled", "drawn", "left_out", "hyper_parameters")

# Of every key whose section is not open, but those that name one of several things.
RANGES: dict[str, Range] = {
    # JAX takes the seed of a key modulo 2**32.
    "seed": Range("a whole number, 0 to 2**32 - 1", lambda x: whole(0).fits(x) and x < 2**32),
    "total_steps": or_none(whole(1)),
    "total_epochs": or_none(POSITIVE),
    "init_from": or_none(TEXT),
    **{f"init_changes.{name}": ranges.PATTERNS for name in INIT_CHANGES},
    "data.source": TEXT,
    "data.data_dir": or_none(TEXT),
    "data.train_split": TEXT,
    "data.eval_split": TEXT,
    "data.train_transform": TEXT,
    "data.eval_transform": or_none(TEXT),
    "data.batch_size": whole(1),
    "data.eval_batch_size": or_none(whole(1)),
    "data.workers": whole(0),
    "data.on_error": ranges.one_of(("stop", "skip")),
    "data.cache": TRUE_OR_FALSE,
    "data.repeats": whole(1),
    "data.mean": or_none(ranges.several(ranges.number())),
    "data.std": or_none(ranges.several(POSITIVE)),
    "data.interpolation": or_none(ranges.one_of(INTERPOLATIONS)),
    **{f"optim.{option}": optim.OPTION_RANGES[option] for option in optim.COMMON_DEFAULTS},
    **{
        f"optim.{name}.{option}": optim.OPTION_RANGES[option]
        for name, options in optim.OPTIMIZER_DEFAULTS.items()
        for option in options
    },
    **{f"lora.{name}": range for name, range in lora.LORA_RANGES.items()},
    **{f"schedule.{name}": range for name, range in schedules.SCHEDULE_RANGES.items()},
    "ema_decay": RATE,
    "accumulate_steps": whole(1),
    **{f"mesh.{axis}": sharding.MESH_SIZE for axis in sharding.AXES},
    "tpu_topology": or_none(tpu_slices.NAME),
    "checkpoint.every_steps": or_none(whole(1)),
    "checkpoint.every_epochs": or_none(POSITIVE),
    "checkpoint.keep_last": whole(1),
    "checkpoint.keep_best": whole(0),
    "checkpoint.best_metric": TEXT,
    "checkpoint.best_mode": ranges.one_of(("max", "min")),
    "log_every_steps": whole(1),
    "profile": trace.STEPS,
    "eval_every_steps": or_none(whole(1)),
    "eval_every_epochs": or_none(POSITIVE),
    "compilation_cache": or_none(Range("a folder, or 'off'", lambda x: TEXT.fits(x) and x != "")),
    "distributed.auto": TRUE_OR_FALSE,
    "distributed.coordinator": or_none(TEXT),
    "distributed.num_processes": or_none(whole(1)),
    "distributed.process_id": or_none(whole(0)),
    "distributed.timeout_seconds": whole(1),
}


def check_values(config: ConfigDict) -> None:
    """Looks at every value of a configuration that has all its keys.

    Raises:
      UserError: says which key, what it is and what was expected.
    """
    for key, known in (
        ("model.name", models.list_models()),
        ("objective.name", objectives.OBJECTIVES),
        ("optim.name", optim.OPTIMIZER_DEFAULTS),
        ("schedule.name", schedules.NAMES),
    ):
        naming.check_known(key, [value_of(config, key)], known)
    ranges.check({key: value_of(config, key) for key in flat_keys(config)}, RANGES)
    for section, allowed in _of_open_sections(config).items():
        ranges.check(config[section].to_dict(), allowed, f"{section}.")


def _of_open_sections(config: ConfigDict) -> dict[str, dict[str, Range]]:
    fields = models.field_ranges(config.model.name)
    for field in ("num_classes", "img_size"):
        fields[field] = or_none(fields[field])  # None: the data's, the model's own
    return {
        "model": fields,
        "objective": objectives.option_ranges(config.objective.name),
        "sharding_rules": dict.fromkeys(config.sharding_rules, sharding.RULE),
    }
