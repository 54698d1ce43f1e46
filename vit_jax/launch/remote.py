"""Talks to the workers of a TPU, all of them at once, through `gcloud ... ssh`."""

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vit_jax import storage
from vit_jax.errors import UserError
from vit_jax.launch import answers
from vit_jax.launch.gcloud import SSH_FAILED, GcloudError, Kind
from vit_jax.launch.pack import short_hash
from vit_jax.launch.tpu_vm import Tpu
from vit_jax.launch.worker import FOLDER, NOT_THERE

PYTHON = f"{FOLDER}/venv/bin/python"
ATTEMPTS = 5
COPY_SECONDS = 900
SLACK = 120.0  # seconds that connecting may take, gcloud's own retries included
# The machine or the way to it may be gone; nobody did anything wrong.
LOST = (Kind.SSH, Kind.NETWORK, Kind.UNUSABLE, Kind.ABSENT)


class NotInstalledError(UserError):
    """There is no vit-jax on the workers."""


def ask(
    tpu: Tpu,
    arguments: Sequence[str],
    on_line: Callable[[answers.Line], None] | None = None,
    seconds: float = 0.0,
    worker: int | None = None,
    once: str | None = None,
) -> dict[int, answers.Answer]:
    """Sends a request of `vit_jax.launch.worker` to the workers.

    Args:
      tpu: which.
      arguments: the request.
      on_line: called with each line of a log that comes back.
      seconds: how long the workers may take for it.
      worker: None: all.
      once: a name for what is sent over and over, see `Gcloud.run`.

    Returns:
      The answers by worker. Those whose answer was lost are missing; in a dry run all are.

    Raises:
      GcloudError: of one of the kinds in `LOST` where the workers cannot be reached.
      NotInstalledError: vit-jax is not there.
      UserError: a worker refuses.
    """
    found: dict[int, answers.Answer] = {}

    def read(text: str) -> None:
        for said in answers.from_json(text):
            if isinstance(said, answers.Answer):
                found[said.worker] = said
            elif on_line is not None:
                on_line(said)

    command = shlex.join([PYTHON, "-m", "vit_jax.launch.worker", *arguments])
    try:
        tpu.gcloud.run(tpu.ssh(command, worker), read, seconds + SLACK, once)
    except GcloudError as error:
        if error.code == NOT_THERE:
            raise NotInstalledError(
                f"vit-jax is not installed on {tpu.name}; run vit-jax tpu setup {tpu.name} first"
            ) from error
        if error.kind is not Kind.SSH or not found:
            raise
    for number, answer in sorted(found.items()):
        if answer.error:
            raise UserError(f"worker {number} of {tpu.name}: {answer.error}")
    return found


def ask_all(
    tpu: Tpu, arguments: Sequence[str], workers: int, seconds: float = 0.0
) -> dict[int, answers.Answer]:
    """`ask`, again where a connection breaks, until every worker answered; {} in a dry run.

    Raises:
      GcloudError: it broke five times.
    """
    for attempt in range(ATTEMPTS):
        try:
            found = ask(tpu, arguments, seconds=seconds)
            if len(found) == workers or tpu.gcloud.dry_run:
                return found
            command = ["gcloud", *tpu.ssh("")]
            reason = GcloudError(command, SSH_FAILED, f"{len(found)} of {workers} workers answered")
        except GcloudError as error:
            if error.kind not in (Kind.SSH, Kind.NETWORK):
                raise
            reason = error
        if attempt + 1 < ATTEMPTS:
            print(f"{reason}; trying again in {tpu.poll:g} s", flush=True)
            time.sleep(tpu.poll)
    raise reason


def send(tpu: Tpu, content: bytes, target: str) -> None:
    """Copies bytes to a path in the home folder of every worker.

    The file stays in the cache folder here, so that the command that is printed can be repeated. It
    has a folder for each content: another launch at the same time may send something else.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = cache / "vit_jax" / "tpu" / short_hash(content) / Path(target).name
    with storage.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:  # 0600
            temporary.write(content)
        os.replace(temporary.name, file)
    tpu.gcloud.run(tpu.scp(str(file), target), timeout=COPY_SECONDS)
