"""The wish to stop of any process becomes the decision of all, after the same step."""

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.training import distributed, sharding
from vit_jax.training.signals import StopSignals


class Preemption:
    """Decides from the signals of all processes whether the run stops now.

    Several processes have to stop after the same step, whichever of them was told. So each gives
    its wish to the step, which reduces the wishes to one number, and all of them read the same
    answer from the metrics of the same step. There is a place for it on every device: a row of the
    batch may lie on several processes, whose wishes may differ. (JAX's preemption service would do
    it too, but Orbax asks it from a background thread about earlier steps, and then the processes
    may come to different answers.)
    """

    def __init__(self, signals: StopSignals):
        """Binds it to the signals of this process."""
        self._signals = signals
        self._wishes: dict[bool, jax.Array] = {}

    def before_the_first_step(self) -> bool:
        """Returns whether any process has been told to stop; waits until all of them ask."""
        return distributed.on_any(self._signals.told)

    def wish(self, mesh: Mesh) -> jax.Array:
        """Returns what the step is given: int32 (devices,), 1 from who was told."""
        told = self._signals.told
        if told not in self._wishes:
            self._wishes[told] = jax.make_array_from_callback(
                (mesh.size,), sharding.one_a_device(mesh), lambda _: np.full(1, told, np.int32)
            )
        return self._wishes[told]

    def decided(self, seen: bool) -> bool:
        """Returns whether to stop after this step.

        Args:
          seen: whether the metrics looked at so far tell of a wish. A process that is alone need
            not wait for them.
        """
        return seen if jax.process_count() > 1 else self._signals.told
