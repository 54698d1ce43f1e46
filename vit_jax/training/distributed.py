"""Several processes that train one model, on several hosts or on one.

What one of them does, all do: where one fails alone (a file that cannot be decoded, a disk that is
full), the others wait for it in the middle of a step. They come free when it is gone: connections
with it break, at once, or JAX misses its heartbeats, after 100 seconds, and they fail as well. (On
a starved machine heartbeats are late by more than 40, so JAX's limit stays.) But at an ordinary
exit of Python it is not gone: JAX waits there, five minutes long, for the others. So `initialize`
sees to it that an exception that nothing catches ends the process at once. A script that does catch
it has to end with `leave`.
"""

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.errors import UserError

# What the libraries that connect processes call themselves in errors, and how gRPC calls theirs.
CONNECTIONS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
AFTER_OURS = 60  # seconds by which JAX is more patient than we are


class LostProcessError(UserError):
    """A process of the run ended before the others. Nothing is to be changed, so it has a code."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes the run


def is_of_others(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether an error of JAX says that other processes do not answer."""
    said = str(error)
    return jax.process_count() > 1 and any(word in said for word in CONNECTIONS)


def initialize(config: Mapping[str, Any]) -> None:
    """Connects this process with the others, if the configuration asks for it.

    It has to come before anything that makes JAX look for devices. From now on an exception that
    nothing catches ends a process at once if it is connected, by whomever.

    Args:
      config: `config.distributed`.

    Where not all processes have come together after `timeout_seconds`, it says so and ends this
    process with exit code 2: what waits is the inside of JAX, which raises nothing and aborts.

    Raises:
      UserError: only some of the three values are given, the coordinator is no host and port, or
        JAX finds no others by itself.
    """
    manual = {key: config[key] for key in ("coordinator", "num_processes", "process_id")}
    given = [key for key, value in manual.items() if value is not None]
    if given and (len(given) < len(manual) or config["auto"]):
        raise UserError(
            f"config.distributed has {', '.join(given)}; expected all of {', '.join(manual)} and "
            "auto=False, or auto=True alone"
        )
    if given:
        _check_address(manual["coordinator"])
    if (given or config["auto"]) and not jax.distributed.is_initialized():
        _connect(manual, config["auto"], config["timeout_seconds"])
    if jax.distributed.is_initialized() and not isinstance(sys.excepthook, _ThenLeave):
        sys.excepthook = _ThenLeave(sys.excepthook)


def _check_address(coordinator: str) -> None:
    _, colon, port = coordinator.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"config.distributed.coordinator is {coordinator!r}; expected the host of process 0 "
            "and a free port there, as 10.0.0.2:1234"
        )


def _connect(manual: Mapping[str, Any], auto: bool, timeout: int) -> None:
    _prepare_cpu_collectives()
    jax.config.update("jax_enable_preemption_service", False)  # `preemption` does without
    where = () if auto else tuple(manual.values())
    with _patience(timeout, "the address JAX found" if auto else manual["coordinator"]):
        try:
            jax.distributed.initialize(*where, initialization_timeout=timeout + AFTER_OURS)
        except (ValueError, RuntimeError) as error:
            said = str(error).rstrip(".")
            raise UserError(
                f"no connection with other processes: {said}. Outside of TPU pods, Slurm, Open MPI "
                "and Kubernetes, set config.distributed.coordinator, num_processes and process_id"
            ) from error


@contextlib.contextmanager
def _patience(timeout: int, where: str) -> Iterator[None]:
    """Ends the process with a sentence if what is within takes longer than `timeout` seconds."""

    def give_up() -> None:
        print(
            f"vit-jax: error: after {timeout} seconds not all processes have met at {where}: is "
            "each of them running, with the same config.distributed but for process_id, and can "
            "it reach that address? config.distributed.timeout_seconds makes them wait longer",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _prepare_cpu_collectives() -> None:
    """Settings that are of no effect but where the devices are CPUs.

    By default a process whose partner is half a minute late gives up, which is less than it takes
    to compile on a busy machine.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    flags = os.environ.get("XLA_FLAGS", "")
    for name in ("collective_timeout", "collective_call_terminate_timeout"):
        if name not in flags:
            flags += f" --xla_cpu_{name}_seconds=600"
    os.environ["XLA_FLAGS"] = flags.strip()


def on_any(flag: bool) -> bool:
    """Returns on every process whether `flag` is true on one of them; waits until all ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def leave(code: int) -> None:
    """Ends a process that failed, at once, if it is connected with others; returns if it is not.

    Nothing that Python would still do at exit is done.

    Args:
      code: the exit code.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclasses.dataclass(frozen=True)
class _ThenLeave:
    """A `sys.excepthook`: what was there before, then `leave`."""

    before: Callable[..., None]

    def __call__(
        self,
        kind: type[BaseException],
        error: BaseException,
        traceback: TracebackType | None,
    ) -> None:
        self.before(kind, error, traceback)
        leave(1)
