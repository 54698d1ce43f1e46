"""The side of a TPU VM: starts a run that survives the connection, and tells how it is.

It runs there as `python -m vit_jax.launch.worker COMMAND` and answers in `vit_jax.launch.answers`.
All it keeps is in the folder vit_jax_tpu of the home folder:

venv/            where vit-jax is installed
recipes/HASH/    recipes that were sent, and environment.json, the variables for them
lock             held (flock) for as long as a run goes; the kernel lets go when the process is gone
installing       the same, for an installation
run/start.json   what was started last
run/pid          its process, as long as it goes
run/stopping     there where it was told to stop
run/exit_code    how it ended; missing where the machine was taken away
log.txt          what it printed, one run after the other
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vit_jax.launch import log_file
from vit_jax.launch.answers import Answer, Line, to_json

FOLDER = "vit_jax_tpu"
ENVIRONMENT = "environment.json"  # beside the recipes: {NAME: VALUE}
TICK = 0.2  # seconds between two looks at a file
NOT_THERE = 127  # a shell's exit code for a command that it does not find
KILLED_BY = 128  # a shell's exit code for a process that signal n ended is 128 + n


def own_number() -> int:
    """The number of this worker in its slice.

    From the environment, or from the VM's metadata server, which JAX asks as well
    (`jax._src.clusters.cloud_tpu_cluster`).
    """
    if "TPU_WORKER_ID" in os.environ:
        return int(os.environ["TPU_WORKER_ID"])
    import urllib.request  # slow to load, and each request is a process of its own

    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/agent-worker-number"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.read())


class Worker:
    """The run on this machine."""

    def __init__(self, home: Path, worker: int):
        """Binds it to a home folder and the number of the worker."""
        self._home, self._worker = home, worker
        self._folder = home / FOLDER
        self._run, self._log = self._folder / "run", self._folder / "log.txt"

    def answer(self, error: str | None = None) -> Answer:
        """How the run is, or why a request is refused."""
        running = self._running()  # asked first: the exit code is written before the lock is free
        code = _read(self._run / "exit_code")
        start = self._start()
        state = "none" if not start else "lost" if code is None else "ended"
        return Answer(
            self._worker,
            "running" if running else state,
            start.get("identity"),
            tuple(start.get("arguments", ())),
            start.get("started"),
            None if running or code is None else int(code),
            (self._run / "stopping").exists(),
            start.get("first_line", 0),
            log_file.count(self._log),
            log_file.last_line(self._log),
            error,
        )

    def _start(self) -> dict[str, Any]:
        return json.loads(_read(self._run / "start.json") or "{}")

    def _running(self) -> bool:
        return self._held("lock")

    def _held(self, name: str) -> bool:
        lock = self._locked(name, fcntl.LOCK_SH)  # shared: several may ask at once
        if lock is None:
            return True
        os.close(lock)
        return False

    def _locked(self, name: str, way: int) -> int | None:
        """The lock's file descriptor, None where somebody holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, way | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _own_lock(self) -> int | None:
        """The lock for a run; tries for a second, as others may be asking just now."""
        for _ in range(5):
            lock = self._locked("lock", fcntl.LOCK_EX)
            if lock is not None:
                return lock
            time.sleep(TICK)
        return None

    def start(self, identity: str, recipes: str, arguments: Sequence[str]) -> Answer:
        """Starts `vit-jax ARGUMENTS`, once.

        Where the same run goes already, or this very request came before (gcloud sends it again
        when a connection breaks), nothing is started.

        Args:
          identity: of the request.
          recipes: name of the archive that holds the recipes, in the folder.
          arguments: of `vit-jax`.
        """
        lock = self._own_lock()
        before = self._start()
        wanted = {"arguments": list(arguments), "recipes": recipes}
        if lock is None:
            same = all(before.get(key) == value for key, value in wanted.items())
            going = shlex.join(["vit-jax", *before.get("arguments", ())])
            return self.answer(None if same else f"another run is going: {going}")
        try:
            if self._held("installing"):  # asked under the lock, as an installation does
                return self.answer("an installation is going; try again when it has ended")
            if before.get("identity") != identity:
                self._unpack(recipes)
                when = {"started": _now(), "first_line": log_file.count(self._log)}
                self._begin({"identity": identity, **when, **wanted}, lock)
        finally:
            os.close(lock)  # the process that was started holds it as well
        return self.answer()

    def _recipes(self, archive: str) -> Path:
        return self._folder / "recipes" / archive.partition(".")[0]

    def _unpack(self, recipes: str) -> None:
        archive, target = self._folder / recipes, self._recipes(recipes)
        shutil.rmtree(target, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")

    def _begin(self, start: dict[str, Any], lock: int) -> None:
        """Writes down what is started, and starts what watches over it."""
        self._run.mkdir(exist_ok=True)
        for name in ("pid", "stopping", "exit_code"):
            (self._run / name).unlink(missing_ok=True)
        _write(self._run / "start.json", json.dumps(start))
        with open(self._log, "ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "vit_jax.launch.worker", "supervise"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a connection that ends takes it not along
                pass_fds=(lock,),
            )
        _wait(lambda: (self._run / "pid").exists() or supervisor.poll() is not None, 60)

    def supervise(self) -> None:
        """Runs what was written down to its end, and writes its exit code."""
        for wish in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(wish, lambda *_: None)  # they are for the run
        start = self._start()
        given = json.loads((self._recipes(start["recipes"]) / ENVIRONMENT).read_text())
        try:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "vit-jax"), *start["arguments"]],
                cwd=self._home,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **given},
                process_group=0,
            )
        except OSError as error:
            print(f"vit-jax could not be started: {error}", flush=True)
            return _write(self._run / "exit_code", str(NOT_THERE))
        _write(self._run / "pid", str(process.pid))
        code = process.wait()
        (self._run / "pid").unlink()  # it may soon be another process's
        log_file.end_line(self._log)
        _write(self._run / "exit_code", str(code if code >= 0 else KILLED_BY - code))

    def stop(self, seconds: float, kill: bool) -> Answer:
        """Sends SIGTERM, so that the run saves and ends, and waits for that.

        It is sent once: a second one would end the run while it saves, and gcloud sends a request
        again when a connection breaks.

        Args:
          seconds: how long at most.
          kill: whether to end it then with SIGKILL.
        """
        if self._running():
            # It may just have begun, and have no process yet.
            _wait(lambda: (self._run / "pid").exists() or not self._running(), seconds)
            if not (self._run / "stopping").exists() and self._signal(signal.SIGTERM):
                _write(self._run / "stopping", _now())
            if not _wait(lambda: not self._running(), seconds) and kill:
                self._signal(signal.SIGKILL)
                _wait(lambda: not self._running(), 30)
        return self.answer()

    def _signal(self, wish: signal.Signals) -> bool:
        """To the run itself; SIGKILL to all that it started. Returns whether there was one."""
        pid = int(_read(self._run / "pid") or 0)
        with contextlib.suppress(ProcessLookupError):
            if pid:
                (os.killpg if wish == signal.SIGKILL else os.kill)(pid, wish)
                return True
        return False

    def follow(self, firsts: Sequence[int], seconds: float) -> Iterator[Line]:
        """The lines of the log, as they come, until the run ends.

        Args:
          firsts: for each worker the number of the first line, where one is given for all, that;
            below 0: that many from the end.
          seconds: how long at most.
        """
        deadline = time.monotonic() + seconds
        first = firsts[min(self._worker, len(firsts) - 1)]
        first = first if first >= 0 else max(0, log_file.count(self._log) + first)
        number = position = 0
        while True:
            running = self._running()
            for text, end in log_file.lines(self._log, position):
                if number >= first:
                    yield Line(self._worker, number, text)
                number, position = number + 1, end
            if not running or time.monotonic() >= deadline:
                return
            time.sleep(TICK)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Writes a file that is at every moment the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _wait(happened: Callable[[], bool], seconds: float) -> bool:
    """Waits until `happened()`; returns whether it did in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() >= deadline:
            return False
        time.sleep(TICK)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start")
    start.add_argument("identity")
    start.add_argument("recipes")
    start.add_argument("arguments", nargs=argparse.REMAINDER)
    report = commands.add_parser("report")
    report.add_argument("--first", type=int, nargs="*", default=[])  # of worker 0, 1, ...
    report.add_argument("--seconds", type=float, default=0.0)
    stop = commands.add_parser("stop")
    stop.add_argument("--seconds", type=float, required=True)
    stop.add_argument("--kill", action="store_true")
    commands.add_parser("supervise")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Does one command and prints what there is to say."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "supervise":
        return Worker(Path.home(), -1).supervise()
    worker = Worker(Path.home(), own_number())
    if arguments.command == "start":
        said = worker.start(arguments.identity, arguments.recipes, arguments.arguments)
    elif arguments.command == "stop":
        said = worker.stop(arguments.seconds, arguments.kill)
    else:
        if arguments.first:
            for line in worker.follow(arguments.first, arguments.seconds):
                print(to_json(line), flush=True)
        said = worker.answer()
    print(to_json(said), flush=True)


if __name__ == "__main__":
    main()
