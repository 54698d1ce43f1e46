"""Opens the embedded digits, and prepares them the first time."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from vit_jax import storage
from vit_jax.data.digits.builder import SklearnDigits
from vit_jax.data.tfds_source import TfdsSource
from vit_jax.errors import UserError

_log = logging.getLogger(__name__)


def open_source(rest: str, split: str, data_dir: str | None = None) -> TfdsSource:
    """Opens a split of the digits, preparing them under `data_dir` where they are not yet there.

    Args:
      rest: not used.
      split: "train" (1,437 pictures) or "test" (360).
      data_dir: a local folder; None is the TFDS default.

    Raises:
      UserError: there is no such split, or they cannot be prepared there.
    """
    del rest
    root = storage.path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    if storage.is_remote(root):
        raise UserError(
            f"data_dir {str(root)!r}: the digits are prepared in a folder of a file system; leave "
            "data.data_dir out (and the environment variable TFDS_DATA_DIR)"
        )
    if not _place(root).is_dir():
        _prepare(root)
    return TfdsSource(_builder(root), split)


def _place(root: Path) -> Path:
    return root / SklearnDigits.name / str(SklearnDigits.VERSION)


def _builder(root: Path) -> SklearnDigits:
    return SklearnDigits(data_dir=str(root), file_format="array_record")


def _prepare(root: Path) -> None:
    """Prepares the data set beside its place and moves it there whole.

    Any number of processes may do so at once: the first to finish wins, the content is the same.
    """
    place = _place(root)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".preparing-", dir=place.parent))
    except OSError as error:
        raise UserError(
            f"the digits data set cannot be prepared: {error}; set data.data_dir (or the "
            "environment variable TFDS_DATA_DIR) to a folder that can be written"
        ) from error
    try:
        with _quietly():
            _builder(beside).download_and_prepare()
        with contextlib.suppress(OSError):  # another process was first, or the check below fails
            os.rename(_place(beside), place)
        if not place.is_dir():
            raise UserError(
                f"could not move the prepared digits data set to {str(place)!r}; move away what is "
                "there"
            )
        _log.info("prepared the digits data set in %s", place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps TFDS from drawing progress bars and writing warnings about a second of work."""
    absl_log = logging.getLogger("absl")
    level = absl_log.level
    absl_log.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        absl_log.setLevel(level)
