"""What the subcommands share: the `--config.key=value` arguments."""

from collections.abc import Sequence

from vit_jax.errors import UserError

PREFIX = "--config."


def overrides(arguments: Sequence[str]) -> list[str]:
    """Returns `key=value` for each `--config.key=value` or `--config.key value`.

    Raises:
      UserError: an argument is of another form.
    """
    found = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith(PREFIX):
            raise UserError(f"unknown argument {argument!r}; see vit-jax COMMAND --help")
        key = argument.removeprefix(PREFIX)
        if "=" not in key:
            if not remaining:
                raise UserError(f"{argument} has no value; write {argument}=VALUE")
            key = f"{key}={remaining.pop(0)}"
        found.append(key)
    return found


def refuse(arguments: Sequence[str]) -> None:
    """Raises UserError if there is any argument that a subcommand without `--config` knows not."""
    if arguments:
        raise UserError(f"unknown argument {arguments[0]!r}; see vit-jax COMMAND --help")
