"""Device prefetch: same batches, global arrays, exceptions at their place, no thread left over."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.data.pictures import ListSource
from vit_jax import data
from vit_jax.data.prefetch import own_rows


@pytest.fixture
def sharding():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P("data"))


def numbers(count, error=None):
    for i in range(count):
        yield {"image": np.full((8, 2, 2, 3), i, np.uint8), "label": np.arange(8) + i}
    if error is not None:
        raise error


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch-to-device"]


def test_batches_are_the_same_and_sharded(sharding):
    with data.prefetch_to_device(numbers(5), sharding) as batches:
        received = list(batches)
    assert len(received) == 5
    for batch, expected in zip(received, numbers(5)):
        for name, rows in batch.items():
            assert rows.sharding == sharding
            np.testing.assert_array_equal(rows, expected[name])
    assert not threads()


def test_exceptions_come_at_their_place(sharding):
    error = data.DecodeError("a.jpg", "it is empty")
    batches = data.prefetch_to_device(numbers(3, error), sharding, size=8)
    assert [int(next(batches)["label"][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(data.DecodeError, match=r"cannot decode a\.jpg"):
        next(batches)
    assert next(batches, None) is None
    assert not threads()


def test_no_more_than_asked_for_is_prepared(sharding):
    taken = []

    def counted():
        for batch in numbers(100):
            taken.append(1)
            yield batch

    with data.prefetch_to_device(counted(), sharding, size=2) as batches:
        next(batches)
        time.sleep(0.5)
        assert 1 <= len(taken) <= 1 + 2 + 1  # used, waiting, in the thread's hands


def test_close_ends_the_thread_and_the_batches(sharding):
    source = data.train_batches(
        ListSource(10), data.build_transform("resize", 4), batch_size=8, seed=0, workers=1
    )
    batches = data.prefetch_to_device(source, sharding)
    next(batches)
    batches.close()
    batches.close()
    assert not threads()
    assert next(source, None) is None
    assert next(batches, None) is None


def test_a_forgotten_iterator_ends_its_thread(sharding):
    batches = data.prefetch_to_device(numbers(100), sharding)
    next(batches)
    del batches
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not threads()


class OfOneHost:
    """What a sharding is to a host that has some of the devices."""

    def __init__(self, sharding, devices):
        self._sharding, self._devices = sharding, devices

    def addressable_devices_indices_map(self, shape):
        places = self._sharding.devices_indices_map(shape)
        return {device: places[device] for device in self._devices}


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        (P("data"), [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]),
        (P(("data", "tensor")), [[0, 2], [1, 3], [4, 6], [5, 7]]),
        (P(("tensor", "data")), [[0, 1], [4, 5], [2, 3], [6, 7]]),
        (P(), [list(range(8))] * 4),
    ],
)
def test_rows_of_hosts_that_are_blocks_of_a_grid(spec, rows):
    """Two devices each, one below the other, in a mesh of 4 x 2."""
    devices = np.array(jax.devices()[:8]).reshape(4, 2)
    mesh = jax.sharding.Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    hosts = [devices[i : i + 2, j] for i in (0, 2) for j in (0, 1)]
    found = [own_rows(OfOneHost(NamedSharding(mesh, spec), host), 8).tolist() for host in hosts]
    assert found == rows


def test_size(sharding):
    with pytest.raises(ValueError, match="size is 0"):
        data.prefetch_to_device(numbers(1), sharding, size=0)
