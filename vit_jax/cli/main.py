"""The command `vit-jax`: finds the subcommand, and says in one sentence what went wrong.

Exit codes: 0 done; 2 the user has to change something (the message says what); 75 the run was
stopped by SIGTERM or SIGINT and saved, or lost another of its processes: the same command resumes
it (EX_TEMPFAIL of sysexits.h).
An error that nobody thought of keeps its traceback and exits with 1, as does, without one,
`validate` where it finds a difference. `compile` exits with 3 where a step does not fit.
"""

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

import vit_jax
from vit_jax.cli import (
    benchmark,
    calibration,
    confusion,
    convert,
    evaluate,
    export,
    features,
    inspect,
    knn,
    memory,
    models,
    predict,
    probe,
    serve,
    tpu,
    train,
    validate,
    visualize,
)
from vit_jax.cli import compile as compile_command
from vit_jax.errors import UserError

COMMANDS = (
    train,
    evaluate,
    predict,
    features,
    visualize,
    serve,
    probe,
    knn,
    confusion,
    calibration,
    benchmark,
    models,
    inspect,
    compile_command,
    convert,
    validate,
    export,
    tpu,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `vit-jax`.

    Args:
      argv: the arguments; None: those of the process, which is then taken to be the command, and
        may start anew (`memory`).

    Returns:
      The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="vit-jax", description="The Vision Transformer family in JAX and Flax."
    )
    parser.add_argument("--version", action="version", version=f"vit-jax {vit_jax.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    arguments, rest = parser.parse_known_args(argv)
    if argv is None:
        memory.use_huge_pages()
    try:
        with _plain_warnings():
            return arguments.run(arguments, rest)
    except UserError as error:
        print(f"vit-jax: error: {error}", file=sys.stderr)
        return _failed(error.exit_code)
    except Exception:
        traceback.print_exc()
        return _failed(1)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints this library's warnings to users as one sentence, without a line of source."""
    ours = os.path.dirname(vit_jax.__file__) + os.sep
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if category is UserWarning and filename.startswith(ours) and file is None:
                print(f"vit-jax: warning: {message}", file=sys.stderr)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _failed(code: int) -> int:
    """Returns the exit code, or ends the process with it where others would wait for it."""
    if "jax" in sys.modules:
        from vit_jax.training import distributed

        distributed.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
