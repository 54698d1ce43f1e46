"""Errors that are messages: what whoever called can put right.

What this package raises for what it was given, or for what it found on the disk, is a `UserError`,
and its text says what was given, what was expected and what to do. Every other exception is a
mistake, ours or a library's: the command `vit-jax` shows its traceback, and of these the text.
"""


class UserError(ValueError):
    """The text says what has to be changed.

    Attributes:
      exit_code: of a command that ends with it.
    """

    exit_code = 2


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder is not where it was looked for."""
