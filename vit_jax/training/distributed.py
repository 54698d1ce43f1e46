"""Several processes that train one model, on several hosts or on one."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from vit_jax.errors import UserError


def initialize(config: Mapping[str, Any]) -> None:
    """Connects this process with the others, if the configuration asks for it.

    It has to come before anything that makes JAX look for devices.

    Args:
      config: `config.distributed`.

    Raises:
      UserError: only some of the three values are given.
    """
    manual = {key: config[key] for key in ("coordinator", "num_processes", "process_id")}
    given = [key for key, value in manual.items() if value is not None]
    if given and (len(given) < len(manual) or config["auto"]):
        raise UserError(
            f"config.distributed has {', '.join(given)}; expected all of {', '.join(manual)} and "
            "auto=False, or auto=True alone"
        )
    if not given and not config["auto"]:
        return
    if jax.distributed.is_initialized():
        return
    _prepare_cpu_collectives()
    jax.config.update("jax_enable_preemption_service", False)  # `preemption` does without
    if config["auto"]:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(
            manual["coordinator"], manual["num_processes"], manual["process_id"]
        )


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


def wait_for_all(what: str) -> None:
    """Returns once every process has come here.

    Args:
      what: the same text on every process.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def leave(code: int) -> None:
    """Ends a process that failed, at once, if there are others; returns if it is alone.

    At an ordinary exit JAX waits for the other processes, and those may wait for this one in the
    middle of a step. When it is gone they notice and fail as well.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
