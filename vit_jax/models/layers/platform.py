"""What a function is traced for: some choices of layout differ by platform."""

import jax


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu": of the mesh, which need not be attached, or what is here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def on_several_tpus() -> bool:
    """Whether it is traced for a mesh of more than one TPU."""
    return jax.sharding.get_abstract_mesh().size > 1 and platform() == "tpu"


def on_one_cpu() -> bool:
    """Whether it is traced for a CPU that nothing is split over."""
    return jax.sharding.get_abstract_mesh().size <= 1 and platform() == "cpu"
