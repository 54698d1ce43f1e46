"""Labels have to mean what the model's outputs mean: the same classes in the same order."""

from collections.abc import Sequence

from vit_jax.errors import UserError


def check_same(what: str, names: Sequence[str], reference: str, expected: Sequence[str]) -> None:
    """Compares the classes of two sets of examples.

    Args:
      what: whose classes are `names`, for the message, such as "the evaluation split".
      names: of the classes; the label is the index.
      reference: whose classes are `expected`.
      expected: of the classes.

    Raises:
      UserError: they differ; the message shows both.
    """
    names, expected = tuple(names), tuple(expected)
    if names == expected:
        return
    text = f"{what} has {_described(names)}, {reference} {_described(expected)}"
    if len(names) == len(expected):
        label = next(i for i, (ours, theirs) in enumerate(zip(names, expected)) if ours != theirs)
        text += (
            f"; label {label} is {names[label]!r} in the one and {expected[label]!r} in the other"
        )
    raise UserError(f"{text}; expected the same classes in the same order")


def _described(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names):,} classes ({shown}{' ...' if len(names) > 3 else ''})"
