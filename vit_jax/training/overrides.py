"""Overrides of a configuration from the command line: `optim.lr=1e-3`.

A value is read as a Python literal (`3`, `1e-3`, `True`, `None`, `(1, 2)`, `'text'`) and, where it
is none, as text. Its type must fit the value it replaces, as far as that tells: a whole number may
give way to a fraction, and in an open section anything to anything. Whether the value is one that
its key may have is for `vit_jax.training.resolve.check` to say.
"""

import ast
import difflib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from vit_jax import naming
from vit_jax.errors import UserError


def apply(config: ConfigDict, override: str, open_sections: Iterable[str] = ()) -> None:
    """Sets one value of `config` in place.

    Args:
      config: the configuration, locked or not.
      override: `key=value`, the key with dots between its parts.
      open_sections: names of sections where a new key is allowed.

    Raises:
      UserError: the text is not `key=value`, the key is unknown or names a section, or the
        value's type does not fit.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r}: expected key=value, for example optim.lr=1e-3")
    *parents, leaf = key.split(".")
    section = config
    for name in parents:
        section = section.get(name)
        if not isinstance(section, ConfigDict):
            raise UserError(unknown_key(key, flat_keys(config)))
    is_open = len(parents) == 1 and parents[0] in open_sections
    if leaf not in section and not is_open:
        raise UserError(unknown_key(key, flat_keys(config)))
    value = _converted(key, section.get(leaf), text, is_open)
    with section.ignore_type():
        section[leaf] = value


def flat_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all values of `config`; an empty section counts as one."""
    keys = []
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            keys += flat_keys(value, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def value_of(config: ConfigDict, key: str) -> Any:
    """Returns the value of a dotted key, a section as a dict."""
    value = config
    for name in key.split("."):
        value = value[name]
    return value.to_dict() if isinstance(value, ConfigDict) else value


def unknown_key(key: str, known: list[str]) -> str:
    """Returns the message for a dotted key that is not among the `known` ones."""
    # A right last part without its section ("lr" for "optim.lr") is not similar as a whole.
    last = key.split(".")[-1]
    same = [name for name in known if name.split(".")[-1] == last]
    if not same and "." not in key:
        similar = difflib.get_close_matches(key, {name.split(".")[-1] for name in known}, n=1)
        same = [name for name in known if name.split(".")[-1] in similar]
    if same:
        return f"unknown configuration key {key!r}: did you mean {' or '.join(map(repr, same))}?"
    return naming.unknown("configuration key", key, known)


def literal(text: str) -> object:
    """Returns the number, bool, None, text or tuple that `text` is a literal of, or `text`."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    is_plain = value is None or isinstance(value, int | float | str | tuple | list)
    return value if is_plain else text


def _converted(key: str, old: object, text: str, is_open: bool) -> object:
    """Returns `text` as a value that may replace `old`."""
    if isinstance(old, ConfigDict):
        raise UserError(
            f"{key} is a section, not a value; set one of {', '.join(f'{key}.{x}' for x in old)}"
        )
    new = literal(text)
    if old is None or new is None or type(new) is type(old):
        return new
    if type(old) in (int, float) and type(new) in (int, float):
        return new if type(old) is int else float(new)
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        return type(old)(new)
    if isinstance(old, str):  # text that happens to look like a number
        return text
    if is_open:
        return new
    raise UserError(
        f"{key} = {text!r} is {type(new).__name__}, expected {type(old).__name__} (as {old!r})"
    )
