"""Installs the library on every worker of a TPU."""

import dataclasses
import functools
import shlex
import sys
from pathlib import Path

from vit_jax.errors import UserError
from vit_jax.launch import pack
from vit_jax.launch.remote import PYTHON, send
from vit_jax.launch.state import ready
from vit_jax.launch.tpu_vm import Tpu
from vit_jax.launch.worker import FOLDER

ARCHIVE = "vit_jax_source.tar.gz"
# A machine that is taken away answers no more, and ssh would wait for hours.
INSTALL_SECONDS, COUNT_SECONDS = 1800, 900
PYTHON_VERSION = "3.12"  # Ubuntu 22.04, as images are named, has 3.10; uv fetches what is missing
# Nothing is installed under a run that goes; `Worker.start` looks at `installing` in turn.
_INSTALL = """
set -e
mkdir -p {folder}
cd {folder}
if [ "$(cat installed 2>/dev/null)" = {stamp} ]; then echo "already installed"; exit 0; fi
exec 9>>installing
flock --nonblock 9 || {{ echo "another installation is going: wait for its end" >&2; exit 3; }}
flock --timeout 1 lock true || {{ echo "a run is going: vit-jax tpu stop it first" >&2; exit 3; }}
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
rm -rf installed venv
uv venv --quiet --python {python} venv
uv pip install --quiet --python venv/bin/python {requirement}
echo {stamp} > installed
echo "installed"
"""
# On a slice the workers connect, as in training.
_DEVICES = (
    "import jax; {connect}devices = jax.devices(); print('devices', len(devices), "
    "jax.local_device_count(), devices[0].platform, devices[0].device_kind)"
)


@dataclasses.dataclass(frozen=True)
class Library:
    """What to install.

    Attributes:
      package: a requirement of pip, such as "vit_jax[tpu,gcs] @ git+https://...".
      source: or a source tree here, which is copied.
    """

    package: str | None = None
    source: str | None = None

    def __post_init__(self):
        """Raises UserError unless exactly one is given."""
        if bool(self.package) == bool(self.source):
            raise UserError(
                f"package={self.package}, source={self.source}: expected one of --package "
                "REQUIREMENT and --source FOLDER"
            )

    @functools.cached_property
    def archive(self) -> bytes | None:
        """The source tree as it is when first asked for: a run is resumed with what it began with.

        Raises:
          UserError: it is no source tree.
        """
        return None if self.source is None else pack.source(Path(self.source))


def setup(tpu: Tpu, library: Library) -> int:
    """`vit-jax tpu setup`: `install` on a TPU that is ready.

    Returns:
      0.
    """
    install(tpu, library, ready(tpu).workers)
    return 0


def install(tpu: Tpu, library: Library, workers: int) -> None:
    """Installs it where it is not installed yet, and counts the devices.

    Args:
      tpu: which; it has to be ready.
      library: what to install.
      workers: number of VMs.

    Raises:
      UserError: it cannot be installed, or a run is going.
    """
    requirement, stamp = shlex.quote(library.package or ""), library.package or ""
    if library.archive is not None:
        stamp = f"source {pack.short_hash(library.archive)}"
        send(tpu, library.archive, ARCHIVE)
        requirement = f'"vit_jax[tpu,gcs] @ file://$HOME/{ARCHIVE}"'
    script = _INSTALL.format(
        folder=FOLDER, stamp=shlex.quote(stamp), requirement=requirement, python=PYTHON_VERSION
    )
    tpu.gcloud.run(tpu.ssh(script.strip()), timeout=INSTALL_SECONDS, echo=True)
    _count_devices(tpu, workers)


def _count_devices(tpu: Tpu, workers: int) -> None:
    """Prints what JAX sees, and warns where that is no TPU."""
    connect = "jax.distributed.initialize(); " if workers > 1 else ""
    lines: list[str] = []
    code = shlex.join([PYTHON, "-c", _DEVICES.format(connect=connect)])
    # A run that goes has the devices for itself; then nothing is counted.
    alone = f"flock --timeout 1 {FOLDER}/lock true || exit 0; flock {FOLDER}/installing {code}"
    tpu.gcloud.run(tpu.ssh(alone), lines.append, COUNT_SECONDS)
    for line in lines:
        if line.startswith("devices "):
            _, devices, local, platform, kind = line.strip().split(maxsplit=4)
            print(f"{devices} devices ({kind}), {local} of them on this worker")
            if platform != "tpu":
                print(
                    f"vit-jax: warning: JAX on {tpu.name} computes on {platform}; install the "
                    "library with its extra [tpu]",
                    file=sys.stderr,
                )
