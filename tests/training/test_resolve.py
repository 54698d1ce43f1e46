import functools
import re

import jax
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from tests.training import tiny
from vit_jax.errors import UserError
from vit_jax.objectives import OBJECTIVES, Classification
from vit_jax.objectives.losses import softmax_cross_entropy
from vit_jax.training import allowed, overrides
from vit_jax.training.config import OPEN_SECTIONS, base_config, open_and_lock
from vit_jax.training.experiment import Experiment
from vit_jax.training.resolve import check, check_batches, resolve


def config(**changes):
    result = base_config()
    result.total_epochs = 10
    result.data.batch_size = 100
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = result
        for part in sections:
            section = section[part]
        section[name] = value
    return result


def resolved(examples=1000, **changes):
    return resolve(config(**changes), examples, classes=10)


def test_durations_become_steps():
    result = resolved(
        1050, schedule__warmup_epochs=2, checkpoint__every_epochs=0.5, eval_every_steps=7
    )
    # 10.5 steps an epoch, rounded to the nearest step
    assert (result.total_steps, result.total_epochs) == (105, None)
    assert (result.schedule.warmup_steps, result.schedule.warmup_epochs) == (21, None)
    assert (result.checkpoint.every_steps, result.checkpoint.every_epochs) == (5, None)
    assert (result.eval_every_steps, result.schedule.cooldown_steps) == (7, None)
    assert result.model.num_classes == 10
    assert result.data.eval_batch_size == 100


def test_it_is_a_locked_copy_and_may_be_resolved_again():
    original = config()
    result = resolve(original, 1000, 10)
    assert original.total_steps is None
    assert result.is_locked and result.data.is_locked and not result.model.is_locked
    assert resolve(result, 1000, 10) == result


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"total_steps": 5}, "total_steps=5 and total_epochs=10 are both given; give one"),
        ({"total_epochs": None}, "set total_steps or total_epochs"),
        (
            {"schedule__warmup_steps": 1, "schedule__warmup_epochs": 2},
            "schedule.warmup_steps=1 and schedule.warmup_epochs=2 are both given; give one",
        ),
        (
            {"schedule__warmup_epochs": 12},
            "a run of 100 steps is too short for schedule.warmup_epochs=12 (120 steps)",
        ),
        ({"accumulate_steps": 0}, "accumulate_steps is 0; expected a whole number, 1 or more"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; expected a number, 0 <= x < 1"),
        ({"checkpoint__keep_last": 0}, "checkpoint.keep_last is 0; expected a whole number, 1"),
        ({"data__on_error": "ignore"}, "expected one of 'stop', 'skip'"),
        ({"data__source": None}, "data.source is None; expected text"),
        ({"seed": 2**32}, "seed is 4294967296; expected a whole number, 0 to 2**32 - 1"),
        ({"mesh": ConfigDict({"data": 1, "fsdp": 1, "sequence": 1})}, "mesh.tensor is missing"),
        (
            {"mesh": ConfigDict({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1, "tensr": 1})},
            "did you mean 'mesh.tensor'",
        ),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(UserError) as error:
        resolved(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "batch_size, shards, accumulate, message",
    [
        (100, 8, 1, "data.batch_size 100 is not divisible by 8 (8 shards of the mesh); "
         "use 96 or 104"),
        (8, 8, 2, "8 shards of the mesh times 2 accumulation steps); use 16"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_split(batch_size, shards, accumulate, message):
    result = resolved(data__batch_size=batch_size, accumulate_steps=accumulate)
    with pytest.raises(ValueError) as error:
        check_batches(result, shards)
    assert message in str(error.value)


def test_batches_that_can_be_split():
    check_batches(resolved(data__batch_size=96, accumulate_steps=3), 8)
    with pytest.raises(ValueError, match=r"data.eval_batch_size 4 .* use 8"):
        check_batches(resolved(data__batch_size=96, data__eval_batch_size=4), 8)


@pytest.mark.parametrize("what", ["total", "eval_every", "checkpoint.every"])
def test_a_duration_of_less_than_half_a_step(what):
    changed = base_config()
    changed.total_epochs = None if what == "total" else 10
    changed.data.batch_size = 100
    *section, name = f"{what}_epochs".split(".")
    (changed[section[0]] if section else changed)[name] = 0.001
    message = re.escape(f"{what}_epochs is 0.001, which is 0 steps, 14.37 an epoch; expected 1")
    with pytest.raises(UserError, match=f"^{message}"):
        resolve(changed, 1437, 10)


# Values that a recipe, the command line or a config.json changed by hand could hold.
WRONG = ["abc", -1.5, (0,), {}, {"a": 1}, float("nan"), True]


def with_value(key, value):
    """The configuration of tests/training/tiny.py with any value for `key`."""
    content = tiny.get_config().to_dict()
    *sections, name = key.split(".")
    functools.reduce(dict.__getitem__, sections, content)[name] = value
    return open_and_lock(ConfigDict(content))


@pytest.fixture(scope="module")
def left():
    """Keys with a wrong value that `check` had nothing against; it fails for any other error."""
    left = []
    for key in overrides.flat_keys(tiny.get_config()):
        for value in WRONG:
            try:
                check(with_value(key, value))
                left.append((key, value))
            except UserError as error:
                assert key in str(error), (key, value)
    return left


def test_a_wrong_value_is_named_with_its_key(left):
    """What passes is right: True where a bool belongs, text where any text may be."""
    free = {"data.data_dir", "distributed.coordinator", "checkpoint.best_metric", "objective.loss"}
    free |= {"init_from"} | {f"data.{name}" for name in ("source", "train_split", "eval_split")}
    free |= {"compilation_cache", "data.train_transform", "data.eval_transform"}
    for key, value in left:
        if isinstance(value, str):
            assert key in free
        elif value is True:
            assert isinstance(overrides.value_of(tiny.get_config(), key), bool)
        else:
            assert (key, value) in [
                ("data.mean", (0,)),
                ("objective.label_smoothing", -1.5),  # the objective's own affair
            ]


def test_what_is_left_builds_or_is_named_with_its_key(left):
    for key, value in left:
        config = with_value(key, value)
        try:
            Experiment(resolve(config, 1000, 10))
        except UserError as error:
            assert key in str(error)


def test_every_key_has_a_range_that_its_default_is_in():
    base = base_config()
    names = {"optim.name", "schedule.name"}
    keys = {k for k in overrides.flat_keys(base) if k.split(".")[0] not in OPEN_SECTIONS}
    assert set(allowed.RANGES) == keys - names
    check(base)


def test_sections():
    for section in ("data", "optim.adamw", "sharding_rules"):
        for wrong in (3, None, "abc", {}):
            with pytest.raises(UserError, match=rf"^{section} is {wrong!r}; expected a section"):
                check(with_value(section, wrong))


def test_a_rule_for_an_axis_that_there_is_not():
    config = with_value("sharding_rules.mpl", None)
    check(config)  # a model might have it
    with pytest.raises(UserError, match=r"^sharding_rules.mpl: unknown .* did you mean 'mlp'"):
        Experiment(resolve(config, 1000, 10))


class NewAxis(Classification):
    """A classifier whose last bias has an axis of an unheard-of name."""

    def logical_axes(self, batch):
        axes, extra = super().logical_axes(batch)
        return {**axes, "head": {**axes["head"], "bias": ("answers",)}}, extra


def test_the_advice_for_an_axis_without_a_rule_can_be_followed(monkeypatch):
    def build(module):
        return NewAxis(module, softmax_cross_entropy)

    monkeypatch.setitem(OBJECTIVES, "new_axis", build)
    config = with_value("objective", {"name": "new_axis"})
    with pytest.raises(UserError, match=r"logical axis 'answers' .* no rule") as error:
        Experiment(resolve(config, 1000, 10))
    key = re.search(r"set (\S+) to", str(error.value))[1]
    for value, spec in (("None", P()), ("data", P("data"))):
        overrides.apply(config, f"{key}={value}", OPEN_SECTIONS)
        made = Experiment(resolve(config, 1000, 10), devices=jax.devices()[:2])
        assert made.state_factory.shardings.params["head"]["bias"].spec == spec
