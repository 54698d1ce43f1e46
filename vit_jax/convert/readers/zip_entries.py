"""Zip archives, whose stored entries are seen in place: `.npz` and what PyTorch writes are such.

Source: PKWARE's APPNOTE.TXT, section 4.3.7: an entry's bytes follow a local header of 30 bytes, the
name and an extra field, whose lengths are at bytes 26 and 28.
"""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers.mapped import MappedFile

ZIP_MAGIC = b"PK\x03\x04"  # before each entry, hence at the beginning
_ENCRYPTED = 1  # bit of an entry's flags


class ZipEntries:
    """A zip archive.

    Attributes:
      path: the file.
      names: of its entries, in the order of its table of contents.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the table of contents.

        Raises:
          CheckpointFileError: it is missing or damaged, or has a name twice.
        """
        self.path = path
        self._mapped = MappedFile(path)
        with self._archive() as archive:
            infos = archive.infolist()
        self._infos = {info.filename: info for info in infos}
        self.names = tuple(self._infos)
        if len(self.names) < len(infos):
            names = [info.filename for info in infos]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointFileError(path, f"it has the entry {twice!r} twice")
        for info in infos:
            if info.flag_bits & _ENCRYPTED:
                raise CheckpointFileError(path, "it is encrypted; expected no password")
            if not 0 <= info.header_offset < self._mapped.size:
                raise CheckpointFileError(path, _damaged(info.filename, "it is not in the file"))

    def size(self, name: str) -> int:
        """Returns the length of an entry in bytes, uncompressed."""
        return self._infos[name].file_size

    def is_stored(self, name: str) -> bool:
        """Returns whether an entry's bytes are in the file as they are, not compressed."""
        info = self._infos[name]
        return info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Opens an entry for reading from its beginning, decompressed.

        Raises:
          CheckpointFileError: what is read is damaged; the check covers what was read to its end.
        """
        with self._archive() as archive, self._as_damage(name), archive.open(name) as file:
            yield file

    def read(self, name: str) -> bytes:
        """Returns a whole entry; CheckpointFileError where it is damaged."""
        with self.open(name) as file:
            return file.read()

    def view(self, name: str) -> tuple[MappedFile, int]:
        """Returns the mapped file and the byte where a stored entry begins in it.

        Raises:
          CheckpointFileError: the entry is compressed, or not where the table of contents says.
        """
        info = self._infos[name]
        if not self.is_stored(name):
            raise CheckpointFileError(self.path, f"its entry {name!r} is compressed")
        header = self._mapped.bytes[info.header_offset : info.header_offset + 30]
        skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        begin = info.header_offset + 30 + skipped
        if header[:4] != ZIP_MAGIC or begin + info.file_size > self._mapped.size:
            cause = f"its entry {name!r} is not where the table of contents says: it is damaged"
            raise CheckpointFileError(self.path, cause)
        return self._mapped, begin

    def check_sum(self, name: str) -> None:
        """Raises CheckpointFileError unless a stored entry has the checksum (CRC-32) it should."""
        mapped, begin = self.view(name)
        info = self._infos[name]
        with memoryview(mapped.bytes) as view, view[begin : begin + info.file_size] as entry:
            found = zlib.crc32(entry)
        if found != info.CRC:
            raise CheckpointFileError(self.path, _damaged(name, "wrong checksum"))

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
            cause = (
                f"it begins as a zip archive, but its table of contents, at the end, is missing or "
                f"damaged ({error}): it was probably cut short; download or copy it again"
            )
            raise CheckpointFileError(self.path, cause) from error
        with archive:
            yield archive

    @contextlib.contextmanager
    def _as_damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except CheckpointFileError:
            raise
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
            raise CheckpointFileError(self.path, _damaged(name, str(error))) from error


def _damaged(name: str, why: str) -> str:
    return f"its entry {name!r} is damaged ({why}): download or copy the file again"
