"""Scalars and pictures in TensorBoard's event files, written without TensorBoard.

The writers that exist bring in what training must not load: tensorboardX imports PyTorch and
TensorBoard's own imports TensorFlow where they are installed. The part of the format that these
need is small. A file is a sequence of TFRecords (length, its checksum, data, its checksum), each
holding one `Event` message of tensorboard/compat/proto/event.proto in protocol-buffer encoding.
"""

import io
import os
import struct
import time
from collections.abc import Mapping

import numpy as np

from vit_jax import storage

_MASK = 0xFFFFFFFF
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types of protocol buffers
_SESSION_START = 1  # SessionLog.SessionStatus.START


class EventWriter:
    """Appends scalars and pictures to a new event file of a run's folder."""

    def __init__(self, folder: str | os.PathLike[str], first_step: int = 0):
        """Opens a new file; the earlier files of the folder stay as they are.

        Args:
          folder: of one run; made where it is missing.
          first_step: TensorBoard hides what earlier files hold for this step and later ones, so
            that the steps which a resumed run repeats do not show twice.
        """
        folder = storage.path(folder)
        storage.make_folder(folder)
        # TensorBoard reads the files of a folder in the order of their names: that of their making.
        name = f"events.out.tfevents.{time.time_ns():020d}.{os.getpid()}"
        self._file = storage.open_log(folder / name)
        self._record(_field(3, _BYTES, b"brain.Event:2"), step=0)
        self._record(_field(7, _BYTES, _field(1, _VARINT, _SESSION_START)), step=first_step)
        self._file.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named values of one step and flushes them to the operating system."""
        summary = b""
        for name, value in values.items():
            entry = _field(1, _BYTES, name.encode()) + _field(2, _FLOAT, value)
            summary += _field(1, _BYTES, entry)
        self._record(_field(5, _BYTES, summary), step)
        self._file.flush()

    def pictures(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes named pictures `(height, width, 1 or 3)`, uint8, of one step and flushes them.

        A message holds its size, the number of its colour channels and the picture as PNG
        (`Summary.Image` of tensorboard/compat/proto/summary.proto).
        """
        summary = b""
        for name, pixels in values.items():
            sizes = zip((1, 2, 3), pixels.shape)
            image = b"".join(_field(number, _VARINT, size) for number, size in sizes)
            image += _field(4, _BYTES, _png(pixels))
            entry = _field(1, _BYTES, name.encode()) + _field(4, _BYTES, image)
            summary += _field(1, _BYTES, entry)
        self._record(_field(5, _BYTES, summary), step)
        self._file.flush()

    def sync(self) -> None:
        """Has everything written where it survives the process."""
        self._file.sync()

    def close(self) -> None:
        """Closes the file; closing twice is allowed."""
        self._file.close()

    def _record(self, what: bytes, step: int) -> None:
        event = _field(1, _DOUBLE, time.time()) + _field(2, _VARINT, step) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    grey = pixels.shape[-1] == 1
    Image.fromarray(pixels[..., 0] if grey else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _field(number: int, wire_type: int, value: bytes | float) -> bytes:
    """One field of a protocol-buffer message."""
    key = _varint(number << 3 | wire_type)
    if wire_type == _VARINT:
        return key + _varint(value)
    if wire_type == _BYTES:
        return key + _varint(len(value)) + value
    if wire_type == _DOUBLE:
        return key + struct.pack("<d", value)
    try:
        return key + struct.pack("<f", value)
    except OverflowError:  # beyond float32, as a diverging loss may be
        return key + struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord asks for."""
    crc = _MASK
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= _MASK
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & _MASK)
