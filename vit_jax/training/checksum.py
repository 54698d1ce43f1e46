"""A checksum of an array that does not depend on how the array is split over devices.

Orbax notices a file that is missing or cut short, but not every flipped bit in the data. So the
checksum of each array is saved beside it and computed again after a restore.
"""

import collections
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

# Arrays of equal shape are taken in groups, so that one compiled program serves many of them. A
# program for each array would cost a call each, and a CPU runs short programs inside the call.
TOGETHER = 12


def checksums(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
    """Returns a 32-bit checksum of each array, computed on the devices where it lies.

    It is a sum modulo 2^32 of one mixed word per element. Integer sums do not depend on their
    order, hence not on the mesh. A change of a single element always changes the sum; any other
    change escapes with a probability of 2^-32.
    """
    return start(arrays)()


def start(arrays: Mapping[str, jax.Array]) -> Callable[[], dict[str, int]]:
    """Starts `checksums` and returns a function that waits for them; any thread may call it.

    The arrays may be donated to the next program meanwhile.
    """
    # Programs with collectives that are under way at the same time can block each other for good on
    # simulated devices with fewer cores: there one goes after the other.
    simulated = jax.default_backend() == "cpu" and jax.device_count() > 1
    alike = collections.defaultdict(list)
    for name, x in arrays.items():
        alike[x.shape, x.dtype, x.sharding].append(name)
    sums: dict[str, jax.Array] = dict.fromkeys(arrays)  # in their order
    for names in alike.values():
        for first in range(0, len(names), TOGETHER):
            some = names[first : first + TOGETHER]
            found = _checksums([arrays[name] for name in some])
            if simulated:
                jax.block_until_ready(found)
            sums.update(zip(some, found))
    return lambda: dict(zip(sums, map(int, jax.device_get(list(sums.values())))))


@jax.jit
def _checksums(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    return [_checksum(x) for x in arrays]


def _checksum(x: jax.Array) -> jax.Array:
    words = _words(x)
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        position = position * size + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    # For a given position a bijection of the word, so no single change can cancel.
    mixed = _mix(words ^ _mix(position + jnp.uint32(0x9E3779B9)))
    return jnp.sum(mixed, dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32, with one more axis where an element is wider than that."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    width = x.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(width, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(word: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3 (Appleby 2011, public domain), a bijection of 32-bit words."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
