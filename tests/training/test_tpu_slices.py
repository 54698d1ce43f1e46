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
        ("2xv5e:4x8", Slices(2, "v5e", (4, 8))),
        ("12xtpu7x:2x2x1", Slices(12, "tpu7x", (2, 2, 1))),
    ],
)
def test_names(name, found):
    assert parse(name) == found
    assert f"{found.count}x{found.one}".removeprefix("1x") == name


@pytest.mark.parametrize(
    "name", ["v5e", "v5e:4", "0xv5e:2x2", "2v5e:2x2", "v5e:2x0", "v5litepod-4"]
)
def test_names_of_nothing(name):
    with pytest.raises(UserError, match=f"topology '{name}': "):
        parse(name)
    assert not tpu_slices.NAME.fits(name)
    with pytest.raises(UserError, match=rf"tpu_topology is '{name}'; expected a TPU \(v2, .*v5e:"):
        check(plain(f"tpu_topology={name}"))
