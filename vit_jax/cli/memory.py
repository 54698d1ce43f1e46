"""Huge memory pages on CPUs."""

import glob
import importlib.util
import os
import sys

TUNABLE = "glibc.malloc.hugetlb"


def use_huge_pages() -> None:
    """Starts this process anew with huge pages for malloc, where that makes JAX faster.

    XLA on a CPU maps the scratch memory of a step anew at each call, page by page; with huge pages
    there are 512 times fewer. glibc reads the setting when a process starts, so the process has to
    replace itself (its id stays). It does so once, and before JAX is imported. Only for a process
    that has done nothing yet: what its program did before is done again.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not _is_linux_with_glibc() or not _computes_on_cpu():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_linux_with_glibc() -> bool:
    return sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names


def _computes_on_cpu() -> bool:
    """Whether JAX will compute on the CPU: it was told so, or has nothing else to compute on."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    if importlib.util.find_spec("jax_plugins"):
        return False
    # libtpu may be there without a TPU, to compile for one (`vit-jax compile`).
    return importlib.util.find_spec("libtpu") is None or not _has_tpu()


def _has_tpu() -> bool:
    """Whether Linux shows a TPU: as an accelerator, or (from v5e on) as a device of VFIO."""
    return any(glob.glob(pattern) for pattern in ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*"))
