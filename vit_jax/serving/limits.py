"""What is refused, and how much of anything there may be at once."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

from vit_jax import ranges
from vit_jax.errors import UserError

MEGA = 1_000_000
# Pillow refuses what is larger by itself, whatever is allowed here.
MOST_PIXELS = 178_956_970
RANGES = {
    "max_upload_mb": ranges.POSITIVE,
    "max_pixels": ranges.Range(
        f"a whole number, 1 to {MOST_PIXELS:,}",
        lambda x: ranges.whole(1).fits(x) and x <= MOST_PIXELS,
    ),
}


class Refused(UserError):
    """An answer with a status of its own; the text says what to do.

    Attributes:
        status: of HTTP.
        headers: of the answer.
    """

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None):
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much of anything there may be.

    Attributes:
        max_upload_bytes: of a picture's file.
        max_pixels: of a picture, height times width.
        upload_seconds: until an upload is complete.
        requests: that are received, wait or are answered at once; bounds the memory of uploads.

    Raises:
        UserError: one is out of range.
    """

    max_upload_bytes: int
    max_pixels: int
    upload_seconds: float = 60.0
    requests: int = 64

    @classmethod
    def of(cls, max_upload_mb: float, max_pixels: int) -> "Limits":
        """Limits as a user gives them; a megabyte is a million bytes."""
        ranges.check({"max_upload_mb": max_upload_mb, "max_pixels": max_pixels}, RANGES)
        return cls(max(1, round(max_upload_mb * MEGA)), max_pixels)

    def check_pixels(self, height: int, width: int) -> None:
        """Raises Refused for a picture that is too large to be decoded."""
        if height * width > self.max_pixels:
            raise Refused(
                413,
                f"the picture has {width:,} x {height:,} pixels, {height * width / MEGA:,.1f} "
                f"million: send one of at most {self.max_pixels / MEGA:,.1f} million pixels",
            )

    def too_long(self) -> Refused:
        """What is said of an upload of too many bytes."""
        most = f"{self.max_upload_bytes / MEGA:,.6g} MB"
        return Refused(413, f"the upload is too large: send a picture of at most {most}")


class Admission:
    """Counts the requests in progress; belongs to one event loop.

    Attributes:
        inside: how many there are now.
    """

    def __init__(self, most: int):
        self.most, self.inside = most, 0

    @contextlib.contextmanager
    def enter(self, seconds: float) -> Iterator[None]:
        """A place for one request.

        Args:
            seconds: after which there may be another, for the one that is sent away.

        Raises:
            Refused: there is none left.
        """
        if self.inside >= self.most:
            raise Refused(
                503,
                f"{self.most} pictures are being looked at already: try again in a moment",
                {"Retry-After": str(max(1, math.ceil(seconds)))},
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
