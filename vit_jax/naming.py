"""Errors for a name that is not known: they say which known name was probably meant."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """Returns the message for an unknown name.

    Args:
      kind: what was being named, such as "optimizer".
      given: the name that is not known.
      known: every name that would have been accepted.

    Returns:
      A sentence with the nearest known names, or all of them where none is near.
    """
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    if near:
        return f"unknown {kind} {given!r}: did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {kind} {given!r}: expected one of {', '.join(map(repr, known)) or 'none'}"


def check_known(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError for the first name of `given` that is not in `known`."""
    known = set(known)
    for name in given:
        if name not in known:
            raise ValueError(unknown(kind, name, known))
