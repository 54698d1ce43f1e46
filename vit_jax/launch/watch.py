"""Shows the logs of all workers, and says how a run ended, whatever happens to the connection."""

import time
from collections.abc import Mapping

from vit_jax.errors import UserError
from vit_jax.launch.answers import Answer, Line
from vit_jax.launch.gcloud import GcloudError
from vit_jax.launch.remote import LOST, ask
from vit_jax.launch.state import PATIENCE, State, look
from vit_jax.launch.tpu_vm import Tpu

LONGEST_PAUSE = 10  # polls, between two tries to reach the workers


class DeletedError(UserError):
    """The TPU is no more. One that was preempted is still there, in a state that says so."""

    exit_code = 1


class Log:
    """Prints each line of each worker's log once."""

    def __init__(self, workers: int, first: int | Mapping[int, int]):
        """Begins at a line, see `worker.Worker.follow`; the same for all, or each its own."""
        given = first if isinstance(first, Mapping) else dict.fromkeys(range(workers), first)
        self._next = [given.get(worker, 0) for worker in range(workers)]

    def request(self) -> list[str]:
        """The arguments that ask for what was not printed yet."""
        return ["--first", *map(str, self._next)]

    def print(self, line: Line) -> None:
        """Prints a line, unless it was printed or one before it is missing (it comes again)."""
        due = self._next[line.worker]
        if due < 0 or line.number == due:
            print(f"[worker {line.worker}] {line.text}", flush=True)
            self._next[line.worker] = line.number + 1

    def shows_all(self, answer: Answer) -> bool:
        """Whether every line that a worker has is printed."""
        return self._next[answer.worker] >= answer.lines or not answer.lines


def watch(tpu: Tpu, workers: int, log: Log, worker: int | None = None) -> dict[int, Answer]:
    """Prints the logs until no worker runs any more.

    A connection that breaks is tried again, more and more slowly: the run does not need it.

    Args:
      tpu: which.
      workers: number of VMs.
      log: prints them.
      worker: only this one; None: all.

    Returns:
      How the run ended, by worker; {} where the TPU itself was taken away, and in a dry run.

    Raises:
      DeletedError: somebody has deleted it.
    """
    pause, wanted = 1, 1 if worker is not None else workers
    while True:
        try:
            found = report(tpu, log, tpu.poll, worker)
            reason = f"{len(found)} of {wanted} workers answered"
        except GcloudError as error:
            if error.kind not in LOST:
                raise
            found, reason = {}, str(error)
        if tpu.gcloud.dry_run:
            return {}
        if len(found) == wanted:
            pause = 1
            # A run may end between a worker's last look at the log and its answer.
            if all(x.state != "running" and log.shows_all(x) for x in found.values()):
                return found
            continue
        seen = look(tpu, tries=PATIENCE)
        if seen.state is State.ABSENT or seen.word == "DELETING":
            raise DeletedError(
                f"somebody has deleted {tpu.name}, and the run with it; it is not made anew by "
                "itself (vit-jax tpu create, or train with what to create, does)"
            )
        if seen.state is not State.READY:
            print(f"{tpu.name}: {seen.word}", flush=True)
            return {}
        print(f"{reason}; the run goes on, asking again in {pause * tpu.poll:g} s", flush=True)
        time.sleep(pause * tpu.poll)
        pause = min(2 * pause, LONGEST_PAUSE)


def report(tpu: Tpu, log: Log, seconds: float, worker: int | None = None) -> dict[int, Answer]:
    """One request for the state of the run and what is new in the logs, see `remote.ask`.

    It ends by itself after some seconds, so that a machine that is taken away is noticed.
    """
    request = ["report", f"--seconds={seconds:g}", *log.request()]
    return ask(tpu, request, log.print, seconds, worker, once="report")
