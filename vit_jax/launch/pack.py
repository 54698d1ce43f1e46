"""Archives of what is sent to the workers, the same bytes for the same content."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from vit_jax.errors import MissingFileError, UserError
from vit_jax.launch.worker import ENVIRONMENT


def recipes(config: Path, environment: Mapping[str, str]) -> bytes:
    """The recipe, the other Python files of its folder, from which it may start, and variables.

    Variables go with it because a command line is printed, and seen by whoever lists processes.

    Raises:
      MissingFileError: there is no such recipe.
    """
    if not config.is_file():
        raise MissingFileError(f"no recipe at {config}: --config takes the path of a .py file here")
    files = sorted(path for path in config.parent.glob("*.py") if path.is_file())
    contents = {path.name: (path.read_bytes(), 0o644) for path in files}
    secret = json.dumps(dict(sorted(environment.items()))).encode()
    return archive({**contents, ENVIRONMENT: (secret, 0o600)})


def source(folder: Path) -> bytes:
    """A source tree: what git knows of it, with changes that are not committed.

    Raises:
      UserError: it is no Python package, or no checkout of git.
    """
    if not (folder / "setup.py").is_file() and not (folder / "pyproject.toml").is_file():
        raise UserError(
            f"--source {folder} has no setup.py and no pyproject.toml: give the folder of the "
            "package, or --package REQUIREMENT"
        )
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    except OSError as error:
        raise UserError(f"--source needs git, which says what belongs to it: {error}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise UserError(
            f"--source {folder} is no checkout of git ({said}); git says which files belong to it"
        ) from error
    names = sorted({*listed.stdout.decode().split("\0")} - {""})
    files = {name: folder / name for name in names if (folder / name).is_file()}  # some are deleted
    return archive(
        {name: (path.read_bytes(), path.stat().st_mode & 0o777) for name, path in files.items()}
    )


def archive(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A .tar.gz of (content, permissions) by path, without dates and owners."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def short_hash(content: bytes) -> str:
    """Twelve hexadecimal digits that name a content."""
    return hashlib.sha256(content).hexdigest()[:12]
