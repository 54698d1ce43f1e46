"""Compiled programs are kept on the disk, so that the next start need not compile them again.

They are JAX's (its persistent compilation cache): an entry is found by the program, the version of
JAX and XLA, their flags and the device, so what is found is what would have been compiled. Code for
a CPU is for one kind of CPU: it has a folder for each.
"""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax

from vit_jax import storage

OFF = "off"
NAME = ".jax_cache"
LEAST_SECONDS = 0.3  # what compiles faster is not kept
ABOUT = "Compiled programs that JAX keeps. The folder may be deleted at any time.\n"


def place() -> str:
    """Where programs are kept, or "off"."""
    kept = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
    return kept or OFF


def enable(chosen: str | None, workdir: Path) -> None:
    """Switches the cache on, before anything large is compiled; never fails.

    A cache that is on already, by JAX_COMPILATION_CACHE_DIR or for a former run of this process,
    stays as it is unless a folder is chosen. (JAX itself keeps to the first that it has used.)

    Args:
      chosen: `config.compilation_cache`: a folder or its URL, "off", or None: `.jax_cache` beside
        the workdir.
      workdir: of the run.
    """
    is_on = jax.config.jax_compilation_cache_dir is not None
    if not jax.config.jax_enable_compilation_cache or chosen == OFF or (chosen is None and is_on):
        return
    try:
        folder = _made(_beside(workdir) if chosen is None else storage.absolute(chosen))
    except Exception as error:  # of whatever library, of stores too
        why = storage.first_line(error)
        warnings.warn(f"compiled programs are not kept: {why}", stacklevel=2)
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    if storage.is_remote(folder):  # XLA's own files are written by XLA, which knows no URLs
        jax.config.update("jax_persistent_cache_enable_xla_caches", "")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def _beside(workdir: Path) -> Path:
    """The default for a workdir; that of a bucket as a whole is in it."""
    workdir = storage.absolute(workdir)
    is_bucket = storage.is_remote(workdir) and len(workdir.parts) == 3
    return (workdir if is_bucket else workdir.parent) / NAME


def _made(folder: Path) -> Path:
    """Makes the folder, and sees whether a file can be written there."""
    folder = folder.expanduser()
    if jax.default_backend() == "cpu":
        folder /= f"cpu_{_kind_of_cpu()}"
    storage.make_folder(folder)
    if jax.process_index() == 0:  # who alone writes programs too
        storage.replace_text(folder / "ABOUT.txt", ABOUT)
    return folder


def _kind_of_cpu() -> str:
    """Eight digits that differ between CPUs of which one may lack what code for the other uses."""
    described = platform.machine() + platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = ("model name", "flags", "Features")
        described += "".join(sorted({line for line in lines if line.startswith(told)}))
    return hashlib.sha256(described.encode()).hexdigest()[:8]
