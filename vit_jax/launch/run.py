"""The life of a run on a TPU: started, watched, resumed when the machine is taken away, stopped."""

import dataclasses
import time
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vit_jax import storage
from vit_jax.errors import UserError
from vit_jax.launch import pack
from vit_jax.launch.answers import Answer
from vit_jax.launch.create import ensure
from vit_jax.launch.gcloud import GcloudError, Kind
from vit_jax.launch.install import Library, install
from vit_jax.launch.remote import LOST, ask, ask_all, send
from vit_jax.launch.state import Seen, ready
from vit_jax.launch.tpu_vm import Hardware, Tpu
from vit_jax.launch.watch import Log, report, watch
from vit_jax.launch.worker import FOLDER

RESUME_ME = 75  # of vit-jax train: stopped by a signal, saved
RUN_IS_LOST = 1  # our exit code where a run was lost and is not resumed
TRIES = 10  # to begin, where the machine is taken away again and again
GRACE = 60  # seconds for what is left of an earlier run
SHOWN = 20  # lines of a log that say how it stands


@dataclasses.dataclass(frozen=True)
class Run:
    """What to train.

    Attributes:
      config: path of a recipe here; it is sent to the workers.
      workdir: of the run, as the workers see it.
      overrides: `key=value` of the configuration.
      environment: `NAME=VALUE` for the workers.
    """

    config: str
    workdir: str
    overrides: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises UserError for an environment that is none, or a workdir that never can be."""
        storage.check_text(self.workdir)
        for pair in self.environment:
            if not pair.partition("=")[0].isidentifier() or "=" not in pair:
                raise UserError(f"--env {pair!r}: expected NAME=VALUE")

    def check(self, workers: int, restarts: int) -> None:
        """Raises UserError where checkpoints would be where nobody finds them."""
        if storage.is_remote(self.workdir) or PurePosixPath(self.workdir).is_absolute():
            return
        if workers > 1 or restarts:
            why = (
                f"this TPU has {workers} workers, and each has its own disk"
                if workers > 1
                else "a VM that is created anew has an empty disk"
            )
            raise UserError(
                f"workdir {self.workdir!r} is on the disk of a worker, but {why}; give a bucket "
                "(gs://BUCKET/DIR) or the absolute path of a file system that all of them mount"
            )

    def arguments(self, recipes: str, workers: int) -> list[str]:
        """Of `vit-jax` on a worker.

        Args:
          recipes: hash of the archive that was sent.
          workers: several find each other through `config.distributed.auto`.
        """
        config = f"{FOLDER}/recipes/{recipes}/{Path(self.config).name}"
        overrides = list(self.overrides)
        if workers > 1 and not any(key.startswith("distributed.") for key in overrides):
            overrides.append("distributed.auto=True")
        changes = [f"--config.{override}" for override in overrides]
        return ["train", "--config", config, "--workdir", self.workdir, *changes]


def train(
    tpu: Tpu,
    run: Run,
    hardware: Hardware | None = None,
    library: Library | None = None,
    restarts: int = 0,
    detach: bool = False,
) -> int:
    """`vit-jax tpu train`: starts the run on all workers, or finds it going, and shows its logs.

    The same call resumes a run that was stopped: `vit-jax train` goes on from its last checkpoint.

    Args:
      tpu: which.
      run: what to train.
      hardware: creates the TPU where it is missing; None: it has to be there.
      library: installed where it is not; None: it has to be there.
      restarts: how often to go on by itself where the machine was taken away or maintained.
      detach: return once it runs.

    Returns:
      0 where it is complete or runs, else the exit code of the worker that failed; 75 where it was
      stopped and can be resumed.

    Raises:
      UserError: it cannot be started.
    """
    if restarts < 0 or (restarts and detach):
        raise UserError(
            f"restarts={restarts}, detach={detach}: expected 0 restarts or more, and none with "
            "--detach, as nobody would watch the run"
        )
    if (restarts and hardware is None) or (hardware is not None and library is None):
        raise UserError(
            "a TPU that is created, or created anew after a preemption (--restarts), is empty: say "
            "what to create (--accelerator-type) and what to install (--package or --source)"
        )
    archive = pack.recipes(Path(run.config), dict(x.split("=", 1) for x in run.environment))
    # Before anything is paid for:
    run.check(workers=1, restarts=restarts)
    if library is not None:
        _ = library.archive
    left, tries = restarts, TRIES
    while True:
        try:
            seen = _prepared(tpu, hardware, library, patient=left < restarts)
            run.check(seen.workers, restarts)
            log = _start(tpu, run, archive, seen.workers)
        except GcloudError as error:  # taken away before the run had begun
            tries -= 1
            if error.kind not in LOST or not restarts or not tries:
                raise
            print(f"{error}; trying again in {tpu.poll:g} s", flush=True)
            time.sleep(tpu.poll)
            continue
        if detach:
            return 0
        tries = TRIES
        ended = _watched(tpu, seen.workers, log)
        if tpu.gcloud.dry_run or not _may_resume(ended):
            return _conclude(tpu, ended)
        if not left:
            return _not_resumed(tpu, ended)
        left -= 1
        print(f"resuming from the last checkpoint; {left} restarts left", flush=True)


def _watched(tpu: Tpu, workers: int, log: Log) -> dict[int, Answer]:
    try:
        return watch(tpu, workers, log)
    except KeyboardInterrupt:
        print(f"\nthe run goes on; vit-jax tpu logs {tpu.name} --follow shows it again")
        raise


def _prepared(tpu: Tpu, hardware: Hardware | None, library: Library | None, patient: bool) -> Seen:
    """The TPU, ready and with the library on it."""
    seen = ready(tpu) if hardware is None else ensure(tpu, hardware, patient)
    if library is not None:
        install(tpu, library, seen.workers)
    return seen


def _start(tpu: Tpu, run: Run, archive: bytes, workers: int) -> Log:
    """Starts the run on all workers, unless it goes already; returns the log from there on."""
    recipes = pack.short_hash(archive)
    try:
        send(tpu, archive, f"{FOLDER}/{recipes}.tar.gz")
    except GcloudError as error:
        if error.kind is Kind.OTHER:  # the folder is missing where nothing is installed
            ask(tpu, ["report"])
        raise
    found, going = _ask_to_start(tpu, run, recipes, workers)
    if going and len(going) < workers:
        print("some workers were still in a run that others had left; starting all anew")
        ask_all(tpu, ["stop", f"--seconds={GRACE}", "--kill"], workers, GRACE)
        found, going = _ask_to_start(tpu, run, recipes, workers)
    if going:
        print(f"{tpu.name}: running since {going[0].started}; here is its log", flush=True)
    elif found:
        print(
            f"{tpu.name}: started; vit-jax tpu logs {tpu.name} --follow shows its log", flush=True
        )
    firsts = {
        answer.worker: max(answer.first_line, answer.lines - SHOWN if going else 0)
        for answer in found
    }
    return Log(workers, firsts)


def _ask_to_start(
    tpu: Tpu, run: Run, recipes: str, workers: int
) -> tuple[list[Answer], list[Answer]]:
    """The answers of all, and of those where the run was going already."""
    identity = uuid.uuid4().hex
    if tpu.gcloud.dry_run:
        print("# Where the TPU has several workers, it ends with --config.distributed.auto=True:")
    request = [identity, f"{recipes}.tar.gz", *run.arguments(recipes, workers)]
    found = list(ask_all(tpu, ["start", *request], workers).values())
    return found, [answer for answer in found if answer.identity != identity]


def _may_resume(ended: Mapping[int, Answer]) -> bool:
    """Whether the machine was the reason, and nobody wanted it to stop."""
    if any(answer.stopping for answer in ended.values()):
        return False
    if not ended or any(answer.state in ("lost", "none") for answer in ended.values()):
        return True  # with one machine gone the others fail too
    codes = {answer.exit_code for answer in ended.values()}
    return RESUME_ME in codes and codes <= {0, RESUME_ME}


def _conclude(tpu: Tpu, ended: Mapping[int, Answer]) -> int:
    """Says how it ended; shows the last lines of a worker that failed."""
    if not ended:  # a dry run
        return 0
    codes = {worker: answer.exit_code for worker, answer in ended.items()}
    failed = [worker for worker, code in sorted(codes.items()) if code not in (0, RESUME_ME)]
    if failed:
        code = codes[failed[0]]
        how = (
            "is gone: its machine was restarted"
            if code is None
            else f"failed with exit code {code}"
        )
        print(f"worker {failed[0]} {how}; its last lines:")
        report(tpu, Log(len(ended), -SHOWN), seconds=0.0, worker=failed[0])
        return code or RUN_IS_LOST
    if RESUME_ME in codes.values():
        print("stopped and saved; the same command resumes it")
        return RESUME_ME
    print(
        f"the run is complete; vit-jax tpu delete {tpu.name} where the TPU is not needed any more"
    )
    return 0


def _not_resumed(tpu: Tpu, ended: Mapping[int, Answer]) -> int:
    print(
        f"the run on {tpu.name} was interrupted and no restarts are left; the same command resumes "
        "it from its last checkpoint (--restarts N does so by itself)"
    )
    stopped = bool(ended) and all(answer.state == "ended" for answer in ended.values())
    return RESUME_ME if stopped else RUN_IS_LOST
