"""What a function is traced for: some choices of layout differ by platform and mesh."""

import contextlib
import contextvars
import math
from collections.abc import Iterator

import jax
from flax import linen as nn

_for_accelerators = contextvars.ContextVar("for_accelerators", default=False)


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu": of the mesh, which need not be attached, or what is here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def device_kind() -> str:
    """Returns what the devices are called, such as "TPU v5 lite": as `platform` finds them."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def on_several_tpus() -> bool:
    """Whether it is traced for a mesh of more than one TPU."""
    return jax.sharding.get_abstract_mesh().size > 1 and platform() == "tpu"


def devices_along(axis: str | None) -> int:
    """Over how many devices a logical axis is split; one without a name is not."""
    mesh, (names,) = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes((axis,))
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape.get(name, 1) for name in names)


def on_one_cpu() -> bool:
    """Whether it is traced for a CPU, and for no other device beside it."""
    alone = jax.sharding.get_abstract_mesh().size <= 1 and not _for_accelerators.get()
    return alone and platform() == "cpu"


@contextlib.contextmanager
def laid_out_for_accelerators() -> Iterator[None]:
    """What is traced within is laid out as for a GPU or a TPU, though it is traced on a CPU."""
    token = _for_accelerators.set(True)
    try:
        yield
    finally:
        _for_accelerators.reset(token)
