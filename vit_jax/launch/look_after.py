"""What one does with a run that goes: look how it is, read its logs, stop it, delete its TPU."""

from vit_jax.errors import UserError
from vit_jax.launch.answers import Answer
from vit_jax.launch.create import remove
from vit_jax.launch.gcloud import GcloudError
from vit_jax.launch.remote import LOST, NotInstalledError, ask, ask_all
from vit_jax.launch.state import Seen, State, describe, look, ready
from vit_jax.launch.tpu_vm import Tpu
from vit_jax.launch.watch import Log, report, watch


def status(tpu: Tpu) -> int:
    """`vit-jax tpu status`: one line for the TPU and two for each worker.

    Returns:
      0.
    """
    seen = look(tpu)
    if not tpu.gcloud.dry_run:
        print(f"{tpu.name}: {describe(seen)}")
    if seen.state is not State.READY:
        return 0
    try:
        found = ask(tpu, ["report"])
    except NotInstalledError as error:
        print(error)
        return 0
    for worker in range(0 if tpu.gcloud.dry_run else seen.workers):
        if worker not in found:
            print(f"worker {worker}: no answer")
            continue
        print(f"worker {worker}: {sentence(found[worker])}")
        if found[worker].last:
            print(f"worker {worker}: last line: {found[worker].last}")
    return 0


def sentence(answer: Answer) -> str:
    """How the run on one worker is."""
    if answer.state == "none":
        return "nothing was started"
    stopping = ", told to stop" if answer.stopping else ""
    if answer.state == "running":
        return f"running since {answer.started}{stopping}"
    if answer.state == "lost":
        return f"started {answer.started}, gone without an exit code: the machine was restarted"
    return f"started {answer.started}, ended with exit code {answer.exit_code}{stopping}"


def logs(tpu: Tpu, worker: int | None, lines: int, follow: bool) -> int:
    """`vit-jax tpu logs`: the last lines of every worker's log.

    Args:
      tpu: which.
      worker: only this one; None: all.
      lines: how many at first; 0: all.
      follow: whether to go on until the run ends.

    Returns:
      0.
    """
    workers = ready(tpu).workers
    if worker is not None and not 0 <= worker < workers and not tpu.gcloud.dry_run:
        raise UserError(f"--worker {worker}: {tpu.name} has workers 0 to {workers - 1}")
    log = Log(max(workers, (worker or 0) + 1), -lines)
    try:
        if follow:
            watch(tpu, workers, log, worker)
        else:
            report(tpu, log, seconds=0.0, worker=worker)
    except KeyboardInterrupt:
        pass  # the way to end it; the run goes on
    return 0


def stop(tpu: Tpu, seconds: float, kill: bool) -> int:
    """`vit-jax tpu stop`: SIGTERM, so that the run saves, and waits until it has.

    Args:
      tpu: which.
      seconds: how long at most.
      kill: whether to end with SIGKILL what has not ended then.

    Returns:
      0.

    Raises:
      UserError: it has not ended in time.
    """
    workers = ready(tpu).workers
    request = ["stop", f"--seconds={seconds:g}", *(["--kill"] if kill else [])]
    found = ask_all(tpu, request, workers, seconds)
    for worker, answer in sorted(found.items()):
        print(f"worker {worker}: {sentence(answer)}")
    going = [worker for worker, answer in sorted(found.items()) if answer.state == "running"]
    if going:
        raise UserError(
            f"workers {going} have not ended within {seconds:g} s; call it again to wait longer, "
            "or with --kill, which loses the steps since the last checkpoint"
        )
    return 0


def delete(tpu: Tpu, yes: bool, force: bool) -> int:
    """`vit-jax tpu delete`: removes the TPU, and what is on its disks.

    Args:
      tpu: which.
      yes: do not ask.
      force: even where a run is going.

    Returns:
      0, also where there is none.

    Raises:
      UserError: a run is going, or nobody said yes.
    """
    seen = look(tpu)
    if seen.state is State.ABSENT:
        print(f"{tpu.name}: there is none")
        return 0
    if seen.state is State.READY and not force:
        _refuse_where_running(tpu, seen)
    if not yes and not tpu.gcloud.dry_run:
        _confirm(tpu, seen)
    remove(tpu, seen)
    if not tpu.gcloud.dry_run:
        print(f"{tpu.name} is deleted")
    return 0


def _refuse_where_running(tpu: Tpu, seen: Seen) -> None:
    try:
        found = ask_all(tpu, ["report"], seen.workers)
    except NotInstalledError:
        return
    except GcloudError as error:
        if error.kind not in LOST:
            raise
        raise UserError(
            f"the workers of {tpu.name} do not say whether a run is going ({error}); --force "
            "deletes it nevertheless"
        ) from error
    if any(answer.state == "running" for answer in found.values()):
        raise UserError(
            f"a run is going on {tpu.name}; vit-jax tpu stop {tpu.name} saves and ends it, --force "
            "deletes it nevertheless"
        )


def _confirm(tpu: Tpu, seen: Seen) -> None:
    try:
        said = input(f"delete {tpu.name} ({describe(seen)})? [y/N] ")
    except EOFError:
        said = ""
    if said.strip().lower() not in ("y", "yes"):
        raise UserError(f"{tpu.name} is not deleted: nobody said yes; --yes does not ask")
