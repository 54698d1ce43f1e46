"""Names of TPUs, and the key of the configuration that has one."""

import pytest

from tests.ahead.plain import plain
from vit_jax.errors import UserError
from vit_jax.training import tpu_slices
from vit_jax.training.resolve import check
from vit_jax.training.tpu_slices import Slices, parse


@pytest.mark.parametrize(
    "name, found",
    [
        ("v5e:16x16", Slices(1, "v5e", (16, 16))),
        ("v5p:4x4x8", Slices(1, "v5p", (4, 4, 8))),
        ("v3:32x32", Slices(1, "v3", (32, 32))),
        ("v4:2x2x1", Slices(1, "v4", (2, 2, 1))),
        ("2xv5e:4x8", Slices(2, "v5e", (4, 8))),
        ("12xtpu7x:2x2x1", Slices(12, "tpu7x", (2, 2, 1))),
    ],
)
def test_names(name, found):
    assert parse(name) == found
    assert f"{found.count}x{found.one}".removeprefix("1x") == name


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5e:2x2x2", "a slice of v5e has 2 sides; usual ones of v5e are 1x1, "),
        ("v5p:4x4", "a slice of v5p has 3 sides; usual ones of v5p are 2x2x1, "),
        ("v5e:32x32", "1,024 chips, and the largest pod of v5e has 256"),
        ("v6e:32x32", "1,024 chips, and the largest pod of v6e has 256"),
        ("4xv2:32x16", "512 chips, and the largest pod of v2 has 256"),
        ("v4:16x16x32", "8,192 chips, and the largest pod of v4 has 4,096"),
    ],
)
def test_slices_that_cannot_be(name, message):
    with pytest.raises(UserError, match=f"topology '{name}': {message}"):
        parse(name)
    assert not tpu_slices.NAME.fits(name)


def test_usual_slices_are_parts_of_a_pod():
    assert set(tpu_slices.PODS) == set(tpu_slices.TOPOLOGIES)
    for kind, usual in tpu_slices.TOPOLOGIES.items():
        assert [parse(f"{kind}:{shape}").kind for shape in usual] == [kind] * len(usual)


@pytest.mark.parametrize(
    "name", ["v5e", "v5e:4", "0xv5e:2x2", "2v5e:2x2", "v5e:2x0", "v5litepod-4"]
)
def test_names_of_nothing(name):
    with pytest.raises(UserError, match=f"topology '{name}': "):
        parse(name)
    assert not tpu_slices.NAME.fits(name)
    with pytest.raises(UserError, match=rf"tpu_topology is '{name}'; expected a TPU \(v2, .*v5e:"):
        check(plain(f"tpu_topology={name}"))
