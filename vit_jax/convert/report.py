"""What a comparison of two networks found: rows of differences, as text and as JSON."""

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Attributes:
        place: "embedding", "blocks.3", "norm", "output", or the path of a parameter.
        max_abs: largest `|a - b|`.
        max_rel: `max|a - b| / max|b|`, b being PyTorch's.
        limit: of `max_rel`.
    """

    place: str
    max_abs: float
    max_rel: float
    limit: float

    @property
    def ok(self) -> bool:
        """Within the limit; NaN is not."""
        return self.max_rel <= self.limit


@dataclasses.dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        source: what was checked.
        oracle: what it was checked against.
        how: the way in which the weights reached that.
        dtype: in which both computed.
        images: how many images both were fed.
        states: a row for each hidden state, from the image to the output.
        gradients: a row for each parameter; empty if they were not asked for.
    """

    source: str
    oracle: str
    how: str
    dtype: str
    images: int
    states: tuple[Difference, ...]
    gradients: tuple[Difference, ...] = ()

    @property
    def ok(self) -> bool:
        """Every row is within its limit."""
        return self.first_difference is None

    @property
    def first_difference(self) -> str | None:
        """The first place where the two part, as "blocks.3" or "gradient of head/kernel"."""
        for row in self.states:
            if not row.ok:
                return row.place
        for row in self.gradients:
            if not row.ok:
                return f"gradient of {row.place}"
        return None

    def table(self) -> str:
        """The report as text; of the gradients, the worst of each block and of each other part."""
        head = (
            f"{self.source} against {self.oracle}, {self.dtype}, {self.images} images",
            f"weights {self.how}",
            "",
        )
        rows = [("place", "max |a-b|", "max |a-b| / max |b|", "limit", "")]
        rows += [_cells(row.place, row) for row in self.states]
        rows += [_cells(f"gradient of {row.place}", row) for row in _worst(self.gradients)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*head, *lines])

    def to_json(self) -> str:
        """Everything as a JSON object; JSON has no NaN and no infinity: they are null."""
        found = {**dataclasses.asdict(self), "ok": self.ok}
        found["first_difference"] = self.first_difference
        return json.dumps(_finite(found), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The value with None for each number in it that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(name: str, row: Difference) -> tuple[str, ...]:
    numbers = (f"{row.max_abs:.1e}", f"{row.max_rel:.1e}", f"{row.limit:.0e}")
    return name, *numbers, "" if row.ok else "outside"


def _worst(rows: Iterable[Difference]) -> list[Difference]:
    """The row with the largest error of each block, and of each part outside the blocks."""
    groups: dict[str, list[Difference]] = {}
    for row in rows:
        parts = row.place.split("/")
        group = "/".join(parts[:2]) if parts[0] == "encoder" else parts[0]
        groups.setdefault(group, []).append(row)
    return [max(group, key=lambda row: (not row.ok, row.max_rel)) for group in groups.values()]
