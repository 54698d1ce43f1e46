"""Results on standard output: on a terminal, in a file, and for a reader who stops early."""

import contextlib
import os
import shutil
import textwrap
from collections.abc import Iterator
from typing import TextIO

WIDTH = 80  # of a terminal that does not say it


def write(text: str, output: TextIO) -> None:
    """Writes results and the end of their line, see `reader_may_stop` and `encodable`."""
    with reader_may_stop(output):
        output.write(encodable(text, output) + "\n")
        output.flush()


@contextlib.contextmanager
def reader_may_stop(output: TextIO) -> Iterator[None]:
    """Writing ends without an error where whoever reads has stopped, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        # Else Python would complain as it ends, when it writes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def encodable(text: str, output: TextIO) -> str:
    """The text, with "?" for what the output's encoding does not have."""
    encoding = output.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def columns(output: TextIO) -> int | None:
    """Columns of a terminal; None for a file or a pipe, where lines are as long as they come."""
    return shutil.get_terminal_size((WIDTH, 0)).columns if output.isatty() else None


def printable(text: str) -> str:
    """Text from elsewhere without what would move a terminal's cursor."""
    return "".join(x if x.isprintable() else "?" for x in text)


def shortened(text: str, width: int | None, at_end: bool = True) -> str:
    """At most `width` characters of a text, with dots where the rest was; None: all of it."""
    if width is None or len(text) <= width:
        return text
    kept = max(width - 3, 1)
    return text[:kept] + "..." if at_end else "..." + text[-kept:]


def wrapped(text: str) -> list[str]:
    """A sentence in lines of at most `WIDTH` characters; words stay whole."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
