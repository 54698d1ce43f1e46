"""Devices to compile for, which need not be there.

The compiler of TPUs is in libtpu, a Python package that works without a TPU. For CPUs there are as
many simulated devices as asked for. For GPUs XLA needs to try its kernels on one, so what is
compiled for is what is attached.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

import jax

from vit_jax import naming
from vit_jax.errors import UserError
from vit_jax.training import tpu_slices

PLATFORMS = ("cpu", "gpu", "tpu")
# What libtpu asks of the machine it believes to be on. It is read once, when libtpu is loaded.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so several processes may
}


def devices_of(platform: str, topology: str | None, count: int | None) -> Sequence[jax.Device]:
    """Returns the devices to compile for.

    Devices of a CPU are those of the process: where JAX has not started, it starts with `count`.
    libtpu is loaded once, and takes the process for one on a TPU host from then on.

    Args:
      platform: one of `PLATFORMS`.
      topology: of a TPU, such as "v5e:16x16", see `vit_jax.training.tpu_slices`.
      count: of the platform "cpu" how many, of "gpu" how many or None: all; a topology says it.

    Raises:
      UserError: there is no such platform or topology, or what it needs is not here.
    """
    naming.check_known("platform", [platform], PLATFORMS)
    if platform == "tpu":
        return _tpus(topology)
    if topology is not None:
        raise UserError(
            f"topology {topology!r} is one of TPUs, and the platform is {platform!r}: leave it out "
            "and say the number of devices with the mesh, as in data=8"
        )
    return _cpus(count) if platform == "cpu" else _gpus(count)


def _tpus(topology: str | None) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    if topology is None:
        raise UserError(f"compiling for TPUs needs a topology, {tpu_slices.EXAMPLES}")
    wanted = tpu_slices.parse(topology)
    try:
        import libtpu  # noqa: F401, topologies says less where it is missing
    except ImportError as error:
        raise UserError(
            'compiling for TPUs needs libtpu, which is not installed: pip install "vit_jax[tpu]" '
            "(no TPU has to be there)"
        ) from error
    # By default a host has 2 x 2 chips, which fewer chips cannot be made of.
    options = {"chips_per_host_bounds": [1, 1, 1]} if set(wanted.sides) == {1} else {}
    if wanted.count > 1:
        options["num_slices"] = wanted.count
    if wanted.kind == "v4":  # as on a v4: both cores of a chip are one device
        options["chip_config_name"] = "megacore"
    try:
        with _environment():
            found = topologies.get_topology_desc(wanted.one, platform="tpu", **options)
    except Exception as error:  # of several types; the text says what
        raise UserError(
            f"libtpu has no topology {topology!r} ({str(error).splitlines()[0]}); usual ones of "
            f"{wanted.kind} are {', '.join(tpu_slices.TOPOLOGIES[wanted.kind])}"
        ) from error
    return found.devices


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Within it, variables that libtpu needs and that are not set are; after it they are not."""
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _cpus(count: int) -> Sequence[jax.Device]:
    """Simulated devices: as many as asked for where JAX has not started, else those there are."""
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices("cpu")
    if len(found) < count:
        raise UserError(
            f"the mesh has {count} devices, and JAX has started with {len(found)} CPU devices: "
            f"call it before anything else uses JAX, or after "
            f'jax.config.update("jax_num_cpu_devices", {count})'
        )
    return found[:count]


def _gpus(count: int | None) -> Sequence[jax.Device]:
    try:
        found = jax.devices("gpu")
    except RuntimeError as error:
        raise UserError(
            "compiling for GPUs needs one of the kind attached, because XLA chooses kernels by "
            "trying them, and JAX finds none: run it on a machine that has as many as the mesh, "
            'with pip install "vit_jax[cuda]"; or see the sharding with --platform cpu'
        ) from error
    if count is not None and len(found) < count:
        raise UserError(f"the mesh has {count} devices, and {len(found)} GPUs are attached")
    return found[:count]
