"""What a worker says: one line of JSON each, so that the lines of many workers may be mixed."""

import dataclasses
import json
from collections.abc import Iterator

START = '{"is": '


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the log.

    Attributes:
      worker: its number in the slice.
      number: of the line, from 0.
      text: without the end of the line.
    """

    worker: int
    number: int
    text: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """How the run on a worker is.

    Attributes:
      worker: its number in the slice.
      state: "none" (nothing was ever started), "running", "ended", or "lost" (it is gone without
        an exit code: the machine was started anew).
      identity: of the start; the same request sent twice has the same.
      arguments: of `vit-jax`.
      started: when, in UTC.
      exit_code: of `vit-jax`; 128 + n where signal n ended it; None where it has not ended.
      stopping: whether `vit-jax tpu stop` was called.
      first_line: number of this run's first line in the log.
      lines: number of lines in the log.
      last: the last line of the log that is not empty.
      error: why a request was refused.
    """

    worker: int
    state: str
    identity: str | None = None
    arguments: tuple[str, ...] = ()
    started: str | None = None
    exit_code: int | None = None
    stopping: bool = False
    first_line: int = 0
    lines: int = 0
    last: str = ""
    error: str | None = None


def to_json(said: Line | Answer) -> str:
    """Returns one line of JSON, without its end."""
    return json.dumps({"is": type(said).__name__, **dataclasses.asdict(said)})


def from_json(text: str) -> Iterator[Line | Answer]:
    """Yields what `to_json` wrote, and leaves out other text (a greeting, half a line).

    Two workers that write at once may have got onto one line: there is no order between their
    lines and the ends of these.
    """
    at = text.find(START)
    while at >= 0:
        try:
            content, end = json.JSONDecoder().raw_decode(text, at)
            kind = {"Line": Line, "Answer": Answer}[content.pop("is")]
            if "arguments" in content:
                content["arguments"] = tuple(content["arguments"])
            yield kind(**content)
        except (ValueError, TypeError, KeyError, AttributeError):
            end = at + 1
        at = text.find(START, end)
