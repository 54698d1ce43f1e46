"""Runs `gcloud`, prints each command before it is run, and reads from errors what went wrong."""

import contextlib
import enum
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, TextIO

from vit_jax.errors import UserError

SSH_FAILED = 255  # ssh's own failure; any other code is that of the remote command


class Kind(enum.Enum):
    """What went wrong, with what to do about it."""

    ABSENT = "there is no such TPU; vit-jax tpu create makes it"
    EXISTS = "use another name, or delete it first"
    QUOTA = (
        "use another --zone or a smaller type, try --spot, which has a quota of its own, or ask "
        "for more on the quotas page of the console"
    )
    NO_CAPACITY = "try another --zone, --spot, or --queued, which waits in line until there is room"
    FORBIDDEN = "ask for the roles TPU Admin and Service Account User, and check --project"
    NO_ALPHA = (
        "autocheckpoint needs gcloud's alpha commands: run gcloud components install alpha, or "
        "give --no-autocheckpoint"
    )
    UNUSABLE = "vit-jax tpu create makes it anew"
    NETWORK = "Google's service cannot be reached from here; run the same command again"
    SSH = "the connection was lost; run the same command again"
    OTHER = ""  # gcloud says itself what to do, as where one is not logged in


# The first that fits. The texts are those of the Cloud TPU API (quota and capacity as people have
# reported them) and of the gcloud command line, release 528.
_SIGNS = (
    (Kind.QUOTA, r"[Qq]uota limit|[Qq]uota '.*' exceeded|exceed quota|QUOTA_EXCEEDED"),
    (
        Kind.NO_CAPACITY,
        r"no more capacity|[Ii]nsufficient (reserved )?capacity|RESOURCE_EXHAUSTED"
        r"|POOL_EXHAUSTED|enough resources",
    ),
    (Kind.EXISTS, r"ALREADY_EXISTS|already exists"),
    (Kind.UNUSABLE, r"cannot be (used anymore|currently connected to)"),
    (Kind.ABSENT, r"NOT_FOUND|[Nn]ot found"),
    (Kind.FORBIDDEN, r"PERMISSION_DENIED|[Pp]ermission .* denied"),
    (
        Kind.NETWORK,
        r"UNAVAILABLE|DEADLINE_EXCEEDED|Unable to find the server|HTTPSConnectionPool|timed out",
    ),
)


_NOTHING_TO_CREATE = "this --zone may not have this type or software version, or not exist"


class GcloudError(UserError):
    """A `gcloud` command failed.

    Attributes:
      kind: what it was.
      code: the exit code.
    """

    def __init__(self, command: Sequence[str], code: int, stderr: str):
        """Reads the kind from what gcloud wrote."""
        self.code = code
        self.kind = Kind.SSH if code == SSH_FAILED else kind_of(stderr)
        said = _essence(stderr) or f"exit code {code}"
        what = " ".join(word for word in command[1:6] if not word.startswith("-"))
        advice = _NOTHING_TO_CREATE if self.kind is Kind.ABSENT and "create" in command else ""
        advice = advice or self.kind.value
        super().__init__(f"gcloud {what}: {said}{f'; {advice}' if advice else ''}")


def kind_of(stderr: str) -> Kind:
    """What an error of `gcloud` is, from what it wrote to standard error.

    Only what gcloud says itself counts, not what a command on a worker may have printed.
    """
    if re.search(r"command group installed", stderr):
        return Kind.NO_ALPHA
    if re.search(r"ERROR: gcloud crashed \(\w*(Connection|Transport|Timeout|SSL)\w*\)", stderr):
        return Kind.NETWORK
    _, own, text = stderr.rpartition("ERROR: (gcloud.")
    for kind, sign in _SIGNS:
        if own and re.search(sign, text):
            return kind
    return Kind.OTHER


# What `gcloud ... ssh` and `scp` say of their own work, release 528.
_CHATTER = re.compile(
    r"(SSH|SCP): Attempting|Using (ssh|scp) batch|##### Command|Retrying:|Failed to execute"
    r"|WARNING:|If you would like to report this|gcloud feedback|To check gcloud|gcloud info"
)


def _essence(stderr: str) -> str:
    """In one line: gcloud's last "ERROR:", or the last line of a remote command."""
    before, error, after = stderr.rpartition("ERROR: ")
    lines = (after if error else before or after).strip().splitlines()
    lines = [line.strip() for line in lines if line.strip() and not _CHATTER.match(line.strip())]
    text = " ".join(lines if error else lines[-1:])
    return re.sub(r"^\(gcloud[.\w-]*\) ", "", text)


class Gcloud:
    """The command `gcloud`.

    Attributes:
      dry_run: whether commands are printed only.
    """

    def __init__(self, dry_run: bool = False):
        """With `dry_run` nothing is ever run, and each command gives nothing."""
        self.dry_run = dry_run
        self._said: set[str] = set()

    def run(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None] | None = None,
        timeout: float | None = None,
        once: str | None = None,
        echo: bool = False,
    ) -> str:
        """Runs `gcloud ARGUMENTS` and returns its standard output, "" in a dry run.

        Args:
          arguments: as a shell would pass them; none is ever read by a shell here.
          on_line: called with each line of standard output as it comes.
          timeout: seconds after which the command is ended and counts as a lost connection.
          once: a name for what is run over and over; only the first command of a name is printed.
          echo: whether to pass both streams on as they come.

        Raises:
          GcloudError: it failed.
          UserError: there is no gcloud.
        """
        command = ["gcloud", *arguments, "--quiet"]
        self._say(command, once)
        if self.dry_run:
            return ""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # with the ssh processes that it starts
            )
        except FileNotFoundError:
            raise UserError(
                "there is no gcloud on PATH: install the Google Cloud CLI "
                "(https://cloud.google.com/sdk/docs/install) and run gcloud init"
            ) from None
        output, errors, code = _communicate(process, on_line, timeout, echo)
        if code:
            raise GcloudError(command, code, errors)
        return output

    def _say(self, command: Sequence[str], once: str | None) -> None:
        """Prints a command that can be pasted into a shell."""
        if once in self._said:
            return
        if once is not None:
            self._said.add(once)
        stream = sys.stdout if self.dry_run else sys.stderr
        print("+", *map(quoted, command), file=stream, flush=True)


def quoted(word: str) -> str:
    """For a shell; of an option only the value is put into quotes."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and equals:
        return f"{shlex.quote(option)}={shlex.quote(value)}"
    return shlex.quote(word)


def _communicate(
    process: subprocess.Popen[str],
    on_line: Callable[[str], None] | None,
    timeout: float | None,
    echo: bool,
) -> tuple[str, str, int]:
    """Reads both streams to their end; returns them and the exit code."""
    output, errors, late = [], [], threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    def read_errors() -> None:
        _read(process.stderr, [errors.append, *([_to(sys.stderr)] if echo else [])])

    timer = threading.Timer(timeout or 0, end)
    reader = threading.Thread(target=read_errors, daemon=True)
    try:
        reader.start()
        if timeout is not None:
            timer.start()
        _read(process.stdout, [on_line or output.append, *([_to(sys.stdout)] if echo else [])])
        reader.join()
        code = process.wait()
    finally:
        timer.cancel()
        _kill(process)  # where this process is interrupted; it has ended otherwise
    if late.is_set():
        return "", f"no answer within {timeout:g} s", SSH_FAILED
    return "".join(output), "".join(errors), code


def _read(stream: IO[str], takers: Sequence[Callable[[str], None]]) -> None:
    for line in stream:
        for take in takers:
            take(line)


def _to(stream: TextIO) -> Callable[[str], None]:
    return lambda line: print(line, end="", file=stream, flush=True)


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends a process and those that it started, if it has not ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
