"""Configuration files: every value is looked at before it is used.

A file that is damaged, or that a program wrote which means something else by a name, is an error
that names the file and the key; what a layout does not look at may be anything.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.models.registry import CROP_MODES, Preprocessing
from vit_jax.ranges import Range

OBJECT = Range("an object, {...}", lambda x: isinstance(x, Mapping))
SIZE = ranges.either(ranges.whole(1), ranges.several(ranges.whole(1), 2))
COLOURS = ranges.filled(ranges.number())
SPREADS = ranges.filled(ranges.POSITIVE)
INTERPOLATION = ranges.one_of(("bicubic", "bilinear"))
_REQUIRED = object()


class Settings:
    """A JSON object, and what stands for the keys that it leaves out.

    Args:
        values: the object.
        file: it is from, for errors.
        defaults: of keys that it may leave out.
        prefix: of its keys in errors, where it is part of another object: "vision_config.".
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        file: str | os.PathLike[str],
        defaults: Mapping[str, Any] | None = None,
        prefix: str = "",
    ) -> None:
        self.values, self.file, self.prefix = values, os.fspath(file), prefix
        self.defaults = defaults or {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, allowed: Range, default: Any = _REQUIRED) -> Any:
        """The value of a key; where it is left out `default`, or else the object's own.

        Raises:
            UserError: it is left out and has no default, or is not in the range; names the file.
        """
        if key not in self.values:
            default = self.defaults.get(key, default)
            if default is _REQUIRED:
                raise UserError(f"{self.file} lacks {self.prefix}{key}: {allowed.expected}")
            return default
        value = self.values[key]
        if not allowed.fits(value):
            raise self.error(key, f"expected {allowed.expected}")
        return value

    def part(self, key: str, defaults: Mapping[str, Any] | None = None) -> "Settings":
        """An object within the object; an empty one where it is left out.

        Raises:
            UserError: it is no object.
        """
        return Settings(self.get(key, OBJECT, {}), self.file, defaults, f"{self.prefix}{key}.")

    def error(self, key: str, cause: str) -> UserError:
        """The error of a value that is of no use, for a cause such as "expected a number"."""
        value = json.dumps(self.values.get(key))
        return UserError(f"{self.prefix}{key}={value} in {self.file}: {cause}")

    def left_out(self) -> dict[str, Any]:
        """The defaults that count because the object does not give these keys."""
        absent = (key for key in self.defaults if key not in self.values)
        return {f"{self.prefix}{key}": self.defaults[key] for key in absent}


def read_preprocessing(settings: Settings, usual: Preprocessing) -> Preprocessing | None:
    """The fields of `Preprocessing` in an object, or None where there is neither mean nor std.

    Raises:
        UserError: one of these without the other; or a value that this library cannot use.
    """
    if "mean" not in settings and "std" not in settings:
        return None
    return Preprocessing(
        tuple(settings.get("mean", COLOURS)),
        tuple(settings.get("std", SPREADS)),
        settings.get("interpolation", INTERPOLATION, usual.interpolation),
        settings.get("crop_pct", ranges.POSITIVE, usual.crop_pct),
        settings.get("crop_mode", ranges.one_of(CROP_MODES), usual.crop_mode),
    )
