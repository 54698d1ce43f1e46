"""A log that another process is writing, line by line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def lines(path: Path, position: int = 0) -> Iterator[tuple[str, int]]:
    """Whole lines of a file from a position in bytes on, each with the position behind it."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            yield text.rpartition("\r")[2], position  # of a progress bar the last state


def count(path: Path) -> int:
    """Number of whole lines."""
    return sum(1 for _ in lines(path))


def end_line(path: Path) -> None:
    """Ends the last line of a file, where a process was ended in the middle of one."""
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def last_line(path: Path) -> str:
    """The last whole line that is not empty, "" where there is none."""
    last = ""
    for text, _ in lines(path):
        last = text if text.strip() else last
    return last
