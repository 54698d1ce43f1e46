"""Several processes that train one model, on several hosts or on one."""

from collections.abc import Mapping
from typing import Any

import jax


def initialize(config: Mapping[str, Any]) -> None:
    """Connects this process with the others, if the configuration asks for it.

    It has to come before anything that makes JAX look for devices.

    Args:
      config: `config.distributed`.

    Raises:
      ValueError: only some of the three values are given.
    """
    manual = {key: config[key] for key in ("coordinator", "num_processes", "process_id")}
    given = [key for key, value in manual.items() if value is not None]
    if given and (len(given) < len(manual) or config["auto"]):
        raise ValueError(
            f"config.distributed has {', '.join(given)}; expected all of {', '.join(manual)} and "
            "auto=False, or auto=True alone"
        )
    if not given and not config["auto"]:
        return
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of no effect but on CPUs
    jax.config.update("jax_enable_preemption_service", False)  # `preemption` does without
    if config["auto"]:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(
            manual["coordinator"], manual["num_processes"], manual["process_id"]
        )
