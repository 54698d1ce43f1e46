"""Contenders in processes of their own, which take turns."""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from contenders import Contender, Work

HUGE_PAGES = "glibc.malloc.hugetlb=1"  # what `vit-jax` starts itself with, on a CPU
SCRIPT = pathlib.Path(__file__).parent / "contender.py"
ROUND_SECONDS = 1.0  # about how long a contender's turn takes


class FailedError(Exception):
    """A contender's process ended; the message is the last line that it wrote."""


class Running:
    """A contender at work.

    Attributes:
        contender: which.
        ready: seconds from the first line of its code to the end of its first step.
        seconds: of a step, the mean of each round.
    """

    def __init__(
        self,
        contender: Contender,
        work: Work,
        checkouts: Mapping[str, pathlib.Path],
        huge_pages: bool,
    ):
        """Starts the process and waits until it has made a step.

        Raises:
            FailedError: it could not.
        """
        self.contender = contender
        checkout = checkouts[contender.checkout] if contender.checkout else None
        job = {
            "module": contender.module,
            "variant": contender.variant,
            "checkout": checkout and str(checkout.resolve()),
            "work": vars(work),
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, until the process has ended
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(huge_pages),
            text=True,
        )
        self.ready: float = self._answer()["ready"]
        self.seconds: list[float] = []
        self._count = 1
        once = self.steps()
        self._count = max(1, math.ceil(ROUND_SECONDS / once))
        self.seconds.clear()

    def steps(self) -> float:
        """Makes a round of steps; returns the seconds of one, which are kept too.

        One more comes before them and does not count: after the others' turns it finds cold caches,
        and on a virtual machine has to get its memory back from the host.
        """
        self._make(1)
        self.seconds.append(self._make(self._count) / self._count)
        return self.seconds[-1]

    def _make(self, count: int) -> float:
        """Seconds of so many steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def summary(self) -> dict[str, float]:
        """The median of its rounds, and how far apart they are."""
        seconds = self.seconds
        return {
            "seconds": statistics.median(seconds),
            "lowest": min(seconds),
            "highest": max(seconds),
        }

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self.close()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        raise FailedError(said[-1] if said else f"exit code {self._process.returncode}")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _environment(huge_pages: bool) -> dict[str, str]:
    environment = {name: x for name, x in os.environ.items() if name != "GLIBC_TUNABLES"}
    return {**environment, "GLIBC_TUNABLES": HUGE_PAGES} if huge_pages else environment


def take_turns(
    contenders: Sequence[Contender],
    work: Work,
    checkouts: Mapping[str, pathlib.Path],
    rounds: int,
    huge_pages: Mapping[str, bool],
) -> tuple[list[Running], dict[str, str]]:
    """Starts all contenders, then lets each make a round of steps, `rounds` times in turn.

    Args:
        contenders: that do this work.
        work: what they do.
        checkouts: folders of those that need one.
        rounds: how many turns each has.
        huge_pages: by group, whether malloc gets them.

    Returns:
        Those that have done it, ended, and by name what the others failed on.
    """
    running, failed = [], {}
    for contender in contenders:
        try:
            running.append(Running(contender, work, checkouts, huge_pages[contender.group]))
            print(f"  {contender.name}: ready after {running[-1].ready:.1f} s", file=sys.stderr)
        except FailedError as error:
            failed[contender.name] = str(error)
            print(f"  {contender.name}: failed: {error}", file=sys.stderr)
    for _ in range(rounds):
        for one in running:
            one.steps()
    for one in running:
        one.close()
    return running, failed
