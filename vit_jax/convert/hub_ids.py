"""How a repository of the Hugging Face Hub is named: `hf-hub:owner/name[/file][@revision]`."""

import dataclasses
import os
import re
from pathlib import Path

from vit_jax.errors import MissingFileError, UserError

PREFIX = "hf-hub:"
TIMM = "timm/"
COMMIT = re.compile(r"[0-9a-f]{40}")  # in full


@dataclasses.dataclass(frozen=True)
class HubId:
    """A repository at a revision, and perhaps one file of it."""

    repository: str
    revision: str
    file: str | None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repository}{file}@{self.revision}"


def is_hub_id(source: str | os.PathLike[str]) -> bool:
    """Whether a source names a repository of the hub: 'hf-hub:owner/name' or 'timm/name'.

    A local file or folder of the same spelling wins: then it is False.
    """
    return os.fspath(source).startswith((PREFIX, TIMM)) and not Path(source).exists()


def parse(source: str, revision: str | None = None) -> HubId:
    """Reads a hub id.

    Args:
      source: `hf-hub:owner/name[/file][@revision]` or `timm/name[/file][@revision]`.
      revision: the one given apart, or None.

    Raises:
      MissingFileError: it has neither form; as it is no local path either, nothing has this name.
      UserError: a part is empty or missing, or two different revisions are given.
    """
    if not source.startswith((PREFIX, TIMM)):
        raise MissingFileError(
            f"{source!r} is neither a file or folder here nor a hub id: expected a path that "
            f"exists, '{PREFIX}owner/name' or '{TIMM}name'{suggestion(source)}"
        )
    name, at, written = source.removeprefix(PREFIX).partition("@")
    owner, *parts = name.split("/")
    if not (owner and parts and all(parts)) or bool(at) != bool(written):
        raise UserError(
            f"{source!r} is no hub id: expected {PREFIX}owner/name, and after that where needed "
            "/path/to/file and @revision"
        )
    if revision is not None and written and revision != written:
        raise UserError(f"{source!r} names a revision and revision={revision!r} another: give one")
    return HubId(
        repository=f"{owner}/{parts[0]}",
        revision=revision or written or "main",
        file="/".join(parts[1:]) or None,
    )


def suggestion(source: str) -> str:
    """What was probably meant by a name that lacks the prefix, or has another one; may be ""."""
    name = re.sub(r"^(https?://(huggingface\.co|hf\.co)/|hf([-_]hub)?:(//)?)", "", source)
    meant = re.match(r"\w[\w.-]*/\w[\w.-]*", name)
    return f". Did you mean '{PREFIX}{meant[0]}'?" if meant else ""
