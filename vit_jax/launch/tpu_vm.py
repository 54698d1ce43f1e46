"""What a TPU VM is: its name and place, its hardware, and the `gcloud` commands for them."""

import dataclasses
from collections.abc import Sequence

from vit_jax import naming
from vit_jax.errors import UserError
from vit_jax.launch.gcloud import Gcloud

# "TPU software versions", Cloud TPU documentation, the table for PyTorch and JAX.
RUNTIME_VERSIONS = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# "Preserve training progress using Autocheckpoint", Cloud TPU documentation: v2 to v4 and v5e.
# Before maintenance it sends SIGTERM to the process on the TPU and waits up to 5 minutes.
AUTOCHECKPOINT = ("v2", "v3", "v4", "v5litepod")


@dataclasses.dataclass(frozen=True)
class Tpu:
    """One TPU: a VM, or a pod slice of several, which gcloud calls its workers.

    Attributes:
      name: of the node; of the queued resource too, where it is one.
      zone: None: gcloud's default.
      project: None: gcloud's default.
      ssh_flags: given to every `gcloud ... ssh` and `scp`, as "--internal-ip".
      gcloud: runs the commands.
      poll: seconds between two looks at something that is being waited for.
    """

    name: str
    zone: str | None = None
    project: str | None = None
    ssh_flags: tuple[str, ...] = ()
    gcloud: Gcloud = dataclasses.field(default_factory=Gcloud)
    poll: float = 30.0

    def command(self, group: str, verb: str, *more: str, alpha: bool = False) -> list[str]:
        """The arguments of `gcloud [alpha] compute tpus GROUP VERB NAME ...`."""
        track = ["alpha"] if alpha else []
        return [*track, "compute", "tpus", group, verb, self.name, *self._place(), *more]

    def named(self, name: str) -> "Tpu":
        """Another one at the same place."""
        return dataclasses.replace(self, name=name)

    def _place(self) -> list[str]:
        given = {"--zone": self.zone, "--project": self.project}
        return [f"{flag}={value}" for flag, value in given.items() if value]

    def ssh(self, command: str, worker: int | None = None) -> list[str]:
        """Runs a command of a shell on one worker, None: on all of them at once."""
        which = "all" if worker is None else worker
        flags = (f"--worker={which}", *self.ssh_flags, f"--command={command}")
        return self.command("tpu-vm", "ssh", *flags)

    def scp(self, file: str, target: str) -> list[str]:
        """Copies a file to all workers; `target` is a path in the home folder."""
        place = (*self._place(), "--worker=all", *self.ssh_flags)
        return ["compute", "tpus", "tpu-vm", "scp", file, f"{self.name}:{target}", *place]


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What to ask Cloud TPU for; the options are those of `gcloud compute tpus`.

    Attributes:
      accelerator_type: such as "v4-8"; or else `type` and `topology`, such as "v4" and "2x2x1".
      type: the generation.
      topology: chips in each direction.
      version: the software version; None: the one that the documentation names for JAX.
      spot: cheap, and may be taken away at any moment.
      queued: ask with a queued resource, which waits in line.
      autocheckpoint: SIGTERM before maintenance, where the generation has it.
      flags: more options of gcloud's create, such as "--network=NAME".
    """

    accelerator_type: str | None = None
    type: str | None = None
    topology: str | None = None
    version: str | None = None
    spot: bool = False
    queued: bool = False
    autocheckpoint: bool = True
    flags: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises UserError where it does not say which TPU, or says it twice."""
        by_shape = self.type is not None and self.topology is not None
        half = (self.type is None) != (self.topology is None)
        if half or by_shape == (self.accelerator_type is not None):
            raise UserError(
                f"accelerator_type={self.accelerator_type}, type={self.type}, topology="
                f"{self.topology}: expected --accelerator-type (as v4-8), or --type and --topology "
                "(as v4 and 2x2x1)"
            )
        if self.version is None and self.generation not in RUNTIME_VERSIONS:
            unknown = naming.unknown("TPU generation", self.generation, RUNTIME_VERSIONS)
            raise UserError(f"{unknown}; for another one give its software version with --version")

    @property
    def generation(self) -> str:
        """Such as "v4" or "v5litepod"."""
        return self.type or self.accelerator_type.partition("-")[0]

    def create(self, tpu: Tpu) -> list[str]:
        """The arguments of the `gcloud` command that creates it.

        The option for autocheckpoint is one of gcloud's alpha commands (release 528).
        """
        autocheckpoint = self.autocheckpoint and self.generation in AUTOCHECKPOINT
        version = self.version or RUNTIME_VERSIONS[self.generation]
        flags = [*self._size(), f"--{'runtime-' if self.queued else ''}version={version}"]
        flags += ["--spot"] if self.spot else []
        flags += ["--autocheckpoint-enabled"] if autocheckpoint else []
        flags += self.flags
        group = "queued-resources" if self.queued else "tpu-vm"
        if self.queued:
            flags.insert(0, f"--node-id={tpu.name}")
        return tpu.command(group, "create", *flags, alpha=autocheckpoint)

    def _size(self) -> Sequence[str]:
        if self.accelerator_type is not None:
            return [f"--accelerator-type={self.accelerator_type}"]
        return [f"--type={self.type}", f"--topology={self.topology}"]
