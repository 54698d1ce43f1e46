"""What a benchmark ran on: every file of results says it."""

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable


def describe(libraries: Iterable[str]) -> dict[str, object]:
    """Names the processor, its cores and memory, the load, Python, and versions of libraries."""
    cpu = platform.processor()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    found: dict[str, object] = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    return found | {name: importlib.metadata.version(name) for name in libraries}


def describe_devices() -> dict[str, object]:
    """Names the devices that JAX computes on."""
    import jax

    devices = jax.devices()
    kind = devices[0].device_kind
    return {"platform": devices[0].platform, "device": kind, "count": len(devices)}
