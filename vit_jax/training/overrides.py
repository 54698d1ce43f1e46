"""Overrides of a configuration from the command line: `optim.lr=1e-3`.

A value is read as a Python literal (`3`, `1e-3`, `True`, `None`, `(1, 2)`, `'text'`) and, where it
is none, as text. Its type must fit the value it replaces.
"""

import ast
import difflib
from collections.abc import Iterable

from ml_collections import ConfigDict

from vit_jax import naming


def apply(config: ConfigDict, override: str, open_sections: Iterable[str] = ()) -> None:
    """Sets one value of `config` in place.

    Args:
      config: the configuration, locked or not.
      override: `key=value`, the key with dots between its parts.
      open_sections: names of sections where a new key is allowed.

    Raises:
      ValueError: the text is not `key=value`, the key is unknown or names a section, or the
        value's type does not fit.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"override {override!r}: expected key=value, for example optim.lr=1e-3")
    *parents, leaf = key.split(".")
    section = config
    for name in parents:
        section = section.get(name)
        if not isinstance(section, ConfigDict):
            raise ValueError(unknown_key(key, flat_keys(config)))
    if leaf not in section:
        if not (len(parents) == 1 and parents[0] in open_sections):
            raise ValueError(unknown_key(key, flat_keys(config)))
        section[leaf] = _literal(text)
        return
    section[leaf] = _converted(key, section[leaf], text)


def flat_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all values of `config`."""
    keys = []
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            keys += flat_keys(value, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


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


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _converted(key: str, old: object, text: str) -> object:
    """Returns `text` as a value that may replace `old`."""
    if isinstance(old, ConfigDict):
        raise ValueError(
            f"{key} is a section, not a value; set one of {', '.join(f'{key}.{x}' for x in old)}"
        )
    new = _literal(text)
    if old is None or new is None or type(new) is type(old):
        return new
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        return type(old)(new)
    if isinstance(old, str):  # text that happens to look like a number
        return text
    raise ValueError(
        f"{key} = {text!r} is {type(new).__name__}, expected {type(old).__name__} (as {old!r})"
    )
