"""Paths of a file system or of an object store: `gs://BUCKET/...` and `s3://BUCKET/...`.

`path` gives what the rest of the code works with: a `pathlib.Path`, or for a URL an `epath.Path`,
which has the same methods. The functions here are for what differs:

- an object store has no folders: none is made, and one is there as long as something lies in it;
- an object appears whole or not at all, so nothing is written beside its place and renamed;
- an object cannot grow: `open_log` writes it anew;
- each question is a request that may fail: `check` asks one first, and says in a sentence what is
  wrong.

docs/storage.md is about using them.
"""

import contextlib
import importlib.util
import io
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError

# epath takes TensorFlow for URLs where that is installed, which would load it.
os.environ.setdefault("EPATH_USE_TF", "0")

SCHEMES = {"gs": "gcsfs", "s3": "s3fs"}  # -> the module that reads it
ANSWER_SECONDS = 60  # to wait for a store's first answer
UPLOAD_SECONDS = 30  # between two uploads of a file that grows
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/+)")


def is_remote(place: str | os.PathLike[str] | None) -> bool:
    """Whether `place` is a URL of an object store that is read here."""
    return place is not None and _scheme(place) in SCHEMES


def is_path(place: str | os.PathLike[str]) -> bool:
    """Whether `place` is a path or such a URL, and not one of another scheme."""
    return _scheme(place) is None or is_remote(place)


def path(place: str | os.PathLike[str]) -> Path:
    """Returns the path of a file or folder.

    Args:
      place: a path of a file system, or `gs://BUCKET/...` or `s3://BUCKET/...`.

    Returns:
      A `pathlib.Path`, or for a URL an `epath.Path`.

    Raises:
      UserError: another kind of URL; one without a bucket, or that `pathlib` has shortened; or the
        library that reads it is not installed.
    """
    scheme = check_text(place)
    if scheme is None:
        return Path(place)
    _filesystem(scheme)
    from etils import epath

    return epath.Path(os.fspath(place).rstrip("/"))


def check_text(place: str | os.PathLike[str]) -> str | None:
    """Returns the scheme of a URL, None of a path; what reads it need not be installed.

    Raises:
      UserError: nothing, another kind of URL, or one without a bucket.
    """
    text, scheme = os.fspath(place), _scheme(place)
    if not text:
        raise UserError("'' is no path; expected one of a file system, gs://BUCKET/... or s3://...")
    if scheme is not None and scheme not in SCHEMES:
        raise UserError(
            f"{text!r} is of the scheme {scheme!r}; expected a path of a file system, "
            "gs://BUCKET/... or s3://BUCKET/...; mount other storage and give the path"
        )
    if scheme is not None and not re.match(r"[a-z0-9]+://[^/]", text):
        raise UserError(f"{text!r} has no bucket; expected {scheme}://BUCKET/..., as text")
    return scheme


def absolute(place: str | os.PathLike[str]) -> Path:
    """Returns `path(place)`, from the root where it is one of a file system."""
    found = path(place)
    return found if is_remote(found) else found.absolute()


def check(place: str | os.PathLike[str]) -> None:
    """Asks an object store for what lies in a folder; of a file system nothing is asked.

    Raises:
      UserError: it does not answer within `ANSWER_SECONDS`, has no such bucket, or refuses.
    """
    if not is_remote(place):
        return
    folder, answer = path(place), queue.SimpleQueue()
    # Libraries try again for minutes; a thread can be left behind.
    threading.Thread(target=lambda: answer.put(_trouble(folder)), daemon=True).start()
    try:
        trouble = answer.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        trouble = f"no answer within {ANSWER_SECONDS} s; is there a way to it from this machine?"
    if trouble:
        raise UserError(f"{folder}: {trouble}")


def _trouble(folder: Path) -> str | None:
    """What is wrong with a remote folder, or None; one that is empty is not wrong."""
    bucket, files = folder.parts[2], filesystem(folder)
    try:
        files.ls(os.fspath(folder))
    except FileNotFoundError:
        try:
            files.ls(bucket)
        except FileNotFoundError:
            return f"there is no bucket {bucket!r}; make it, or give another"
        except OSError:
            return None  # the folder may be listed, the bucket as a whole may not
    except Exception as error:  # of whatever library
        return f"it cannot be listed ({first_line(error)}); are endpoint and credentials right?"
    return None


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where there is such a thing as an empty one."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def writing(place: str | os.PathLike[str]) -> Iterator[None]:
    """Raises UserError, with the name of a file or folder, where the system refuses to write it."""
    try:
        yield
    except UserError:  # some are OSErrors too
        raise
    except OSError as error:
        raise UserError(f"cannot write {os.fspath(place)}: {error}") from error


def check_writable(file: str | os.PathLike[str]) -> None:
    """Raises UserError, before the long work, for a file that cannot be written after it.

    It is in a file system, and what it holds stays.
    """
    file = Path(file)
    there = file.exists()
    with writing(file):
        file.open("a").close()
    if not there:
        file.unlink()


def entries(folder: Path) -> dict[str, bool]:
    """Returns the names of what lies in a folder, and whether each is a folder.

    There is nothing in one that is missing.

    Raises:
      OSError: it cannot be listed, or another error of the store's library.
    """
    if not is_remote(folder):
        return {x.name: x.is_dir() for x in os.scandir(folder)} if folder.is_dir() else {}
    try:  # not is_dir, which takes a store that does not answer for an empty one
        found = filesystem(folder).ls(os.fspath(folder), detail=True)
    except FileNotFoundError:
        return {}
    names = ((x["name"].rstrip("/").rsplit("/", 1)[-1], x["type"]) for x in found)
    return {name: kind == "directory" for name, kind in names}


def files_below(folder: Path) -> list[str]:
    """Returns the files below a remote folder, relative to it, in the order of their names."""
    found = filesystem(folder).find(os.fspath(folder))
    return [file.removeprefix("/".join(folder.parts[2:]) + "/") for file in found]


def replace_text(file: Path, text: str) -> None:
    """Writes a file that is at every moment the old one or the new one."""
    if is_remote(file):
        file.write_text(text, encoding="utf-8")
        return
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def move_folder(folder: Path, target: Path) -> None:
    """Gives a folder another name, which is free; in a store all is copied, then removed."""
    if not is_remote(folder):
        folder.rename(target)
        return
    files, below = filesystem(folder), files_below(folder)
    old, new = ([os.fspath(top / name) for name in below] for top in (folder, target))
    files.copy(old, new, on_error="raise")
    files.rm(os.fspath(folder), recursive=True)


def read_bytes(file: Path) -> bytes:
    """Returns the content of a file, with one request."""
    return filesystem(file).cat_file(os.fspath(file)) if is_remote(file) else file.read_bytes()


class LocalLog(io.BufferedWriter):
    """A file that grows; what is flushed is the operating system's, and survives a kill."""

    def __init__(self, file: Path):
        super().__init__(io.FileIO(file, "ab"))

    def sync(self) -> None:
        """Does what `flush` does."""
        self.flush()


class RemoteLog:
    """An object that grows: it is kept in memory, and written as a whole now and then.

    A kill loses what came after the latest `sync`, or upload by `flush`.
    """

    def __init__(self, file: Path, content: bytes = b""):
        """Begins with `content`, which is what the store has."""
        self._file, self._content = file, bytearray(content)
        self._stored, self._time = len(content), time.monotonic()

    def write(self, data: bytes) -> None:
        """Adds to the end."""
        self._content += data

    def flush(self) -> None:
        """Uploads what there is, where the latest upload was `UPLOAD_SECONDS` ago."""
        if time.monotonic() - self._time >= UPLOAD_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Uploads what there is.

        Raises:
          UserError: it cannot be written.
        """
        if len(self._content) == self._stored:
            return
        try:
            filesystem(self._file).pipe_file(os.fspath(self._file), bytes(self._content))
        except Exception as error:  # of whatever library
            raise UserError(
                f"{self._file} cannot be written: {first_line(error)}; give the same command again "
                "to go on from the latest checkpoint"
            ) from error
        self._stored, self._time = len(self._content), time.monotonic()

    def close(self) -> None:
        """Uploads what there is; closing twice is allowed."""
        self.sync()


def open_log(file: Path) -> LocalLog | RemoteLog:
    """Opens a file to be continued; it is made where it is missing."""
    if not is_remote(file):
        return LocalLog(file)
    return RemoteLog(file, read_bytes(file) if file.exists() else b"")


def filesystem(file: Path) -> Any:
    """Returns the fsspec file system of a remote path."""
    return _filesystem(_scheme(file))


def _filesystem(scheme: str) -> Any:
    module = SCHEMES[scheme]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{scheme}://... is read by {module}, which is not installed: pip install {module}"
        )
    import fsspec

    # They remember listings, which become wrong when another process, or TensorStore, writes.
    fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem(scheme)


def _scheme(place: str | os.PathLike[str]) -> str | None:
    """The scheme of a URL; None for a path."""
    found = _URL.match(os.fspath(place))
    if found and (len(found[2]) > 1 or found[1] in SCHEMES):  # gs:/x is what pathlib makes of it
        return found[1]
    return None


def first_line(error: Exception) -> str:
    """The first line of what a library's error says, or its name."""
    return str(error).strip().split("\n")[0][:600] or type(error).__name__
