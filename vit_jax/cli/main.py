"""The command `vit-jax`: finds the subcommand, and says in one sentence what went wrong.

Exit codes: 0 done; 2 the user has to change something (the message says what); 75 the run was
stopped by SIGTERM or SIGINT and saved, the same command resumes it (EX_TEMPFAIL of sysexits.h).
An error that nobody thought of keeps its traceback and exits with 1.
"""

import argparse
import opcode
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import vit_jax
from vit_jax.cli import evaluate, train

PACKAGE = Path(vit_jax.__file__).parent
MISTAKES = (AssertionError, AttributeError, NotImplementedError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `vit-jax` with the given arguments, by default those of the process.

    Returns:
      The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="vit-jax", description="The Vision Transformer family in JAX and Flax."
    )
    parser.add_argument("--version", action="version", version=f"vit-jax {vit_jax.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, evaluate):
        command.add_parser(commands)
    arguments, rest = parser.parse_known_args(argv)
    try:
        return arguments.run(arguments, rest)
    except Exception as error:
        if is_message(error):
            print(f"vit-jax: error: {error}", file=sys.stderr)
            return _failed(2)
        traceback.print_exc()
        return _failed(1)


def _failed(code: int) -> int:
    """Returns the exit code, or ends the process with it where others would wait for it."""
    if "jax" in sys.modules:
        from vit_jax.training import distributed

        distributed.leave(code)
    return code


def is_message(error: Exception) -> bool:
    """Returns whether an exception comes from a `raise` statement in this package.

    Such an exception is a message for the user; any other is a mistake of ours or of a library.
    """
    frame = error.__traceback__
    if frame is None or isinstance(error, MISTAKES):
        return False
    while frame.tb_next is not None:
        frame = frame.tb_next
    code = frame.tb_frame.f_code
    instruction = opcode.opname[code.co_code[frame.tb_lasti]]
    return PACKAGE in Path(code.co_filename).parents and instruction == "RAISE_VARARGS"


if __name__ == "__main__":
    sys.exit(main())
