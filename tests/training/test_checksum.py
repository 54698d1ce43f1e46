import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.training.checksum import TOGETHER, checksums, start
from vit_jax.training.sharding import make_mesh

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool", "uint32")


def some_array(dtype, shape=(16, 24)):
    bits = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    return (bits[..., 0] % 2 == 0) if dtype == "bool" else bits.view(dtype)[..., 0]


def checksum(array):
    return checksums({"x": jnp.asarray(array)})["x"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_counts(dtype):
    array = some_array(dtype, (3, 5))
    seen = {checksum(array)}
    for byte in range(array.nbytes):
        for bit in range(1 if dtype == "bool" else 8):
            changed = array.copy()
            changed.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            assert checksum(changed) not in seen


def test_places_count():
    array = some_array("float32")
    assert checksum(array) != checksum(array[::-1])
    assert checksum(array) != checksum(array[:, ::-1])
    assert checksum(np.zeros(3, np.float32)) != checksum(np.zeros(4, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", [P(), P("data"), P(None, "tensor"), P(("data", "fsdp"), "tensor")])
def test_it_does_not_depend_on_the_mesh(dtype, spec):
    array = some_array(dtype)
    mesh = make_mesh({"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2})
    placed = jax.device_put(array, NamedSharding(mesh, spec))
    assert checksums({"x": placed})["x"] == checksum(array)


def test_many_of_one_shape_that_are_then_donated(monkeypatch):
    """As a train step does it: what was started before is of the arrays as they were.

    All lie on one device, for which nothing has to wait.
    """
    shape = (512, 1024)
    arrays = {f"{n}": jnp.full(shape, n, jnp.float32) for n in range(2 * TOGETHER + 1)}
    expected = {name: checksum(np.full(shape, float(name), np.float32)) for name in arrays}
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    finish = start(arrays)
    jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(arrays)
    assert all(x.is_deleted() for x in arrays.values())
    assert list(finish().items()) == list(expected.items())


def test_float64():
    with jax.enable_x64(True):
        array = some_array("float64")
        changed = array.copy()
        changed.view(np.uint8).reshape(-1)[7] ^= 64
        assert checksum(array) != checksum(changed)
