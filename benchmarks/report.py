"""Files of results: what was measured, on which machine, with which versions."""

import json
import pathlib
import subprocess
from collections.abc import Iterable
from typing import Any

from vit_jax import storage
from vit_jax.measure import machine


def write(
    path: pathlib.Path,
    what: str,
    results: Any,
    libraries: Iterable[str] = ("jax", "jaxlib", "flax"),
    devices: bool = True,
    **about: Any,
) -> None:
    """Writes results and says where.

    Args:
        path: of the file.
        what: was measured, in words.
        results: as JSON has them.
        libraries: whose versions are noted.
        devices: whether JAX's are named; it has to be loaded for that.
        **about: how it was measured.
    """
    report = {"what": what, **about, "machine": _where(libraries, devices), "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.replace_text(path, json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


def earlier(
    path: pathlib.Path, libraries: Iterable[str], devices: bool = True, **about: Any
) -> dict[str, Any]:
    """Results that `write` wrote on this machine, with these versions and settings; else none."""
    if not path.exists():
        return {}
    report = json.loads(path.read_text())
    now = json.loads(json.dumps({**about, "machine": _where(libraries, devices)}))
    for one in (report["machine"], now["machine"]):
        del one["load_average"]
    return report["results"] if all(report.get(key) == now[key] for key in now) else {}


def revision() -> str:
    """Of the code that is measured, as git has it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def _where(libraries: Iterable[str], devices: bool) -> dict[str, Any]:
    return machine.describe(libraries) | (machine.describe_devices() if devices else {})
