import pytest
from ml_collections import ConfigDict

from vit_jax.training.config import base_config
from vit_jax.training.resolve import check_batches, resolve


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
        ({"total_steps": 5}, "total"),  # and epochs: both
        ({"total_epochs": None}, "set total_steps or total_epochs"),
        ({"schedule__warmup_steps": 1, "schedule__warmup_epochs": 1}, "warmup"),
        ({"accumulate_steps": 0}, "accumulate_steps is 0; expected 1 or more"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"checkpoint__keep_last": 0}, "checkpoint.keep_last is 0"),
        ({"data__on_error": "ignore"}, "expected 'stop' or 'skip'"),
        ({"data__source": None}, "data.source is None, expected str"),
        ({"mesh": ConfigDict({"data": 1, "fsdp": 1})}, "mesh.tensor is missing"),
        (
            {"mesh": ConfigDict({"data": 1, "fsdp": 1, "tensor": 1, "tensr": 1})},
            "did you mean 'mesh.tensor'",
        ),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ValueError) as error:
        resolved(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "batch_size, shards, accumulate, processes, message",
    [
        (100, 8, 1, 1, "data.batch_size 100 is not divisible by 8 (8 shards of the mesh); "
         "use 96 or 104"),
        (8, 8, 2, 1, "8 shards of the mesh times 2 accumulation steps); use 16"),
        (100, 1, 1, 2, "2 processes cannot share equally"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_split(batch_size, shards, accumulate, processes, message):
    result = resolved(data__batch_size=batch_size, accumulate_steps=accumulate)
    with pytest.raises(ValueError) as error:
        check_batches(result, shards, processes)
    assert message in str(error.value)


def test_batches_that_can_be_split():
    check_batches(resolved(data__batch_size=96, accumulate_steps=3), 8, 2)
    with pytest.raises(ValueError, match=r"data.eval_batch_size 4 .* use 8"):
        check_batches(resolved(data__batch_size=96, data__eval_batch_size=4), 8, 1)


def test_a_duration_of_less_than_half_a_step():
    config = base_config()
    config.total_epochs = 2
    config.eval_every_epochs = 0.001
    with pytest.raises(ValueError, match="eval_every_steps is 0; expected 1 or more"):
        resolve(config, 1437, 10)
