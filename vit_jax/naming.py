"""Errors for a name that is not known: they say which known name was probably meant."""

import difflib
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
    is_text = isinstance(given, str)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5) if is_text else []
    if near:
        return f"unknown {kind} {given!r}: did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {kind} {given!r}: expected one of {', '.join(map(repr, known)) or 'none'}"


def check_known(kind: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Raises UserError for the first name of `given` that is not in `known`."""
    known = list(known)  # not a set: what is given may be anything
    for name in given:
        if name not in known:
            raise UserError(unknown(kind, name, known))
