"""Checkpoints in object stores: complete or not there, damaged ones are noticed, gone ones too."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.training.processes import assert_same_bits
from vit_jax import storage
from vit_jax.errors import MissingFileError, UserError
from vit_jax.training import object_store, run_folder
from vit_jax.training.checkpoint import Checkpoints, restore, restore_first, saved_steps
from vit_jax.training.config import base_config
from vit_jax.training.record import flatten
from vit_jax.training.state import TrainState

NOTES = {"skipped": 3}


def some_state(step):
    """Arrays that are split over four devices and repeated over two, and one that is whole."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    split, whole = (NamedSharding(mesh, spec) for spec in (P("fsdp"), P()))
    values = np.random.default_rng(step).normal(size=(64, 128)).astype(np.float32)
    return TrainState(
        step=jax.device_put(jnp.int32(step), whole),
        params={"kernel": jax.device_put(values, split)},
        opt_state=(),
        ema=None,
        extra={},
    )


def targets():
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), some_state(0)
    )


def bits(tree):
    return {name: np.asarray(x) for name, x in flatten(tree).items()}


def save(directory, *steps):
    with Checkpoints(directory, keep_last=2) as checkpoints:
        for step in steps:
            checkpoints.save(some_state(step), step, None, NOTES)


def restored(directory):
    """What a run that is started again goes on from, and what it says."""
    said = []
    with Checkpoints(directory, keep_last=2) as checkpoints:
        state, record = checkpoints.restore_latest(targets(), said.append)
    assert_same_bits(bits(state), bits(some_state(record.step)))
    return record, said


def test_the_same_bits_come_back_and_old_ones_are_removed(place):
    save(place, 1, 2, 3)
    assert saved_steps(place) == [2, 3]
    record, said = restored(place)
    assert (record.step, record.notes, said) == (3, NOTES, [])
    folders = {name.split("/")[0] for name in storage.files_below(storage.path(place))}
    assert folders == {"2", "3"}


def test_one_that_was_not_completed_is_not_there(place):
    """As a kill leaves it: all but the last file, or some files."""
    save(place, 1, 2, 3)
    (storage.path(place) / "3" / object_store.COMMITTED).unlink()
    assert saved_steps(place) == [2]
    record, said = restored(place)
    assert (record.step, said) == (2, [])
    deadline = time.monotonic() + 20  # the last of many files may go a moment later
    while storage.files_below(storage.path(place) / "3") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert storage.entries(storage.path(place)) == {"2": True}
    save(place, 3)
    assert restored(place)[0].step == 3


def test_a_damaged_one_is_set_aside(place):
    directory = f"{place}/checkpoints"
    save(directory, 1, 2)
    folder = storage.path(directory) / "2" / "state" / "ocdbt.process_0" / "d"
    contents = {name: storage.read_bytes(folder / name) for name in storage.entries(folder)}
    name = max(contents, key=lambda name: len(contents[name]))
    damaged = bytearray(contents[name])
    damaged[len(damaged) // 2] ^= 0x10
    (folder / name).write_bytes(damaged)
    record, said = restored(directory)
    assert record.step == 1
    assert said[0].startswith("the checkpoint of step 2 is damaged: ")
    assert said[1] == "taking the checkpoint of step 1 instead"
    assert saved_steps(directory) == [1]
    assert saved_steps(f"{place}/damaged_checkpoints") == [2]
    save(directory, 2)
    assert restored(directory)[0].step == 2


def test_a_store_that_is_gone_damages_nothing(place, monkeypatch):
    save(place, 1)
    file = storage.path(place) / "1" / "record" / "metadata"
    file.write_bytes(b"")

    def gone(where):
        raise UserError("no answer")

    monkeypatch.setattr(storage, "check", gone)
    with pytest.raises(UserError, match="no answer"):
        restore_first(place, [1], targets(), print)


def test_a_store_that_is_gone_while_saving(place, monkeypatch):
    """As arrays find it: nobody answers, or the bucket is no more."""
    save(place, 1)
    monkeypatch.setitem(object_store.RETRIES, "max_retries", 1)
    gone = {"endpoint": "http://127.0.0.1:9"} if place.startswith("s3") else {"bucket": "nobodys"}
    original = object_store._with_driver
    monkeypatch.setattr(
        object_store, "_with_driver", lambda spec, driver: original(spec, {**driver, **gone})
    )
    with pytest.raises(UserError, match=r"could not be written to .*by step: 1\. Remove the cause"):
        save(place, 2)
    assert saved_steps(place) == [1]


def test_the_folder_of_a_run_is_claimed(place):
    config = base_config()
    for is_there in (run_folder.read_config, run_folder.holds_run):
        with pytest.raises(MissingFileError, match=f"no run in {place}: config.json is missing"):
            is_there(place)
    run_folder.claim(place, config)
    assert run_folder.read_config(place) == config
    save(run_folder.checkpoints_dir(place), 1)
    assert run_folder.holds_run(place)
    config.seed = 1
    with pytest.raises(UserError, match=f"{place} holds a run of another configuration:\n  seed: "):
        run_folder.claim(place, config)


def test_the_mesh_may_change(place):
    save(place, 1)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), targets())
    assert_same_bits(bits(restore(place, 1, wanted)[0]), bits(some_state(1)))
