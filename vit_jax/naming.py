"""Errors for a name that is not known: they say which known name was probably meant."""

import difflib
import fnmatch
from collections.abc import Iterable

from vit_jax.errors import UserError


def unknown(kind: str, given: object, known: Iterable[str]) -> str:
    """Returns the message for an unknown name.

    Args:
      kind: what was being named, such as "optimizer".
      given: the name that is not known, or what stands where a name is expected.
      known: every name that would have been accepted.

    Returns:
      A sentence with the nearest known names, or all of them where none is near.
    """
    known = sorted(known)
    near = nearest(given, known)
    if near:
        return f"unknown {kind} {given!r}: did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {kind} {given!r}: expected one of {', '.join(map(repr, known)) or 'none'}"


def nearest(given: object, known: Iterable[str]) -> list[str]:
    """Returns the known names that are near to what was given, at most three."""
    if not isinstance(given, str):
        return []
    return difflib.get_close_matches(given, sorted(known), n=3, cutoff=0.5)


def check_known(kind: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Raises UserError for the first name of `given` that is not in `known`."""
    known = list(known)  # not a set: what is given may be anything
    for name in given:
        if name not in known:
            raise UserError(unknown(kind, name, known))


def fits(pattern: str, name: str) -> bool:
    """Whether a shell pattern such as "head/*" fits a name; "*" stands for "/" too."""
    return fnmatch.fnmatchcase(name, pattern)


def matching(kind: str, pattern: str, known: Iterable[str]) -> list[str]:
    """Returns the names that a shell pattern fits, see `fits`.

    Args:
      kind: what has these names, such as "parameter", for the error.
      pattern: such as "head/*".
      known: all names.

    Raises:
      UserError: there is none; names the nearest.
    """
    known = list(known)
    found = [name for name in known if fits(pattern, name)]
    if found:
        return found
    stem = pattern.strip("*/")
    same = [name for name in known if stem and stem in name]
    near = same[:3] or difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
    raise UserError(
        f"no {kind} fits the pattern {pattern!r}; the nearest are {', '.join(map(repr, near))}"
    )
