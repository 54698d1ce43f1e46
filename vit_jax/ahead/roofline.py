"""The least time that a step can take on a chip, from the chip's published rates.

A step computes, moves bytes through the chip's memory and sends bytes to other chips. At best the
three overlap completely, and the slowest of them is what it takes (Williams, Waterman and Patterson
2009, "Roofline: an insightful visual performance model for multicore architectures"). A real step
is slower: matrix units are not always full, and what depends on each other does not overlap.
"""

import dataclasses

from vit_jax.training.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step, were it nothing but one of three things.

    Attributes:
      compute: FLOPs over the peak rate.
      memory: bytes read and written over the memory's bandwidth.
      interconnect: bytes sent over what the chip can send: half of its bandwidth in both
        directions. It takes all links to be busy; a collective along one side of a torus uses some.
      model_flops: what the model needs a device, over the peak rate.
    """

    compute: float
    memory: float
    interconnect: float
    model_flops: float

    @property
    def seconds(self) -> float:
        """The least time of a step."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        times = {name: getattr(self, name) for name in ("compute", "memory", "interconnect")}
        return max(times, key=times.get)

    @property
    def share(self) -> float:
        """The model FLOP utilisation that is left at best, see `hardware.mfu`.

        At most 1, though the model's count has the gradient of its input, which no step computes.
        """
        return self.model_flops / max(self.seconds, self.model_flops)


def roofline(chip: Chip, flops: float, moved: float, sent: float, model_flops: float) -> Roofline:
    """Returns the roofline of a step.

    Args:
      chip: it runs on.
      flops: of the program, a device.
      moved: bytes through memory, a device.
      sent: bytes to other devices, a device.
      model_flops: FLOPs that the model needs, a device, without what is computed twice.
    """
    return Roofline(
        compute=flops / chip.flops,
        memory=moved / chip.bandwidth,
        interconnect=sent / (chip.interconnect / 2),
        model_flops=model_flops / chip.flops,
    )
