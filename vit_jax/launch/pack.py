"""Archives of what is sent to the workers, the same bytes for the same content."""

import gzip
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from vit_jax.errors import MissingFileError, UserError


def recipes(config: Path) -> bytes:
    """The recipe and the other Python files of its folder, from which it may start.

    Raises:
      MissingFileError: there is no such recipe.
    """
    if not config.is_file():
        raise MissingFileError(f"no recipe at {config}: --config takes the path of a .py file here")
    return archive(config.parent, sorted(config.parent.glob("*.py")))


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
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"--source {folder} is no checkout of git ({error}); git says which files belong to it"
        ) from error
    names = listed.stdout.decode().split("\0")
    files = (folder / name for name in sorted({*names} - {""}))
    return archive(folder, [path for path in files if path.is_file()])  # some may be deleted


def archive(folder: Path, files: Iterable[Path]) -> bytes:
    """A .tar.gz with the files by their paths relative to `folder`, without dates and owners."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            content = path.read_bytes()
            entry.size, entry.mode = len(content), path.stat().st_mode & 0o777
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def short_hash(content: bytes) -> str:
    """Twelve hexadecimal digits that name a content."""
    return hashlib.sha256(content).hexdigest()[:12]
