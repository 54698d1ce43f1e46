"""What a device can do at most, and which part of it a run makes use of."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The published rates of a device.

    Attributes:
      flops: dense bfloat16 multiply-adds with float32 accumulation, in FLOP/s (an addition and a
        multiplication count as two).
      memory: bytes of its main memory (HBM, or the GDDR memory of a card that has no HBM).
      bandwidth: of that memory, in bytes a second.
      interconnect: bytes a second to other devices, what it sends and what it receives together:
        over all links between TPUs, over NVLink where the GPU has it in its usual server, else over
        PCI Express.
      usable: bytes of the memory that the compiler has for a program; None: not known (GPUs).
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    usable: float | None = None

    @property
    def capacity(self) -> float:
        """Bytes that a program may take, as far as that is known."""
        return self.memory if self.usable is None else self.usable


def _chip(
    teraflops: float,
    memory: float,
    bandwidth: float,
    interconnect: float,
    usable: float | None = None,
) -> Chip:
    """In TFLOP/s, bytes, GB/s, GB/s and bytes."""
    return Chip(teraflops * 1e12, memory, bandwidth * 1e9, interconnect * 1e9, usable)


def _half(
    teraflops: float, memory: float, bandwidth: float, interconnect: float, usable: float
) -> Chip:
    """A device that is one of a chip's two cores, from the numbers of the chip."""
    return _chip(teraflops / 2, memory / 2, bandwidth / 2, interconnect / 2, usable / 2)


_V5E = _chip(197, 16 * GIB, 819, 400, 15.75 * GIB)
_V5P = _chip(459, 95 * GIB, 2765, 1200, 95.74 * GIB)
_V6E = _chip(918, 32 * GIB, 1638, 800, 31.25 * GIB)
# For each TPU device as JAX counts them: v2, v3 and TPU7x show every core (half a chip) as one
# device, the others a chip.
# Sources: cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}, "peak compute per chip", "HBM
# capacity" and "bandwidth", "bidirectional inter-chip interconnect bandwidth". Links of v2: Jouppi
# et al. 2020, "A domain-specific supercomputer for training deep neural networks", 4 of 62 GB/s
# each way; of v3 and v4: Jouppi et al. 2023, "TPU v4", table 4, 4 of 70 and 6 of 50.
# What of the memory is usable is as libtpu 0.0.42.1 says it where a program does not fit; of v5p it
# is more than is published.
_TPU = {
    "TPU v2": _half(45, 16 * GIB, 700, 4 * 62 * 2, 2 * 7.48 * GIB),
    "TPU v3": _half(123, 32 * GIB, 900, 4 * 70 * 2, 2 * 15.48 * GIB),
    "TPU v4": _chip(275, 32 * GIB, 1200, 6 * 50 * 2, 30.75 * GIB),
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _half(2307, 192 * GIB, 7380, 1200, 2 * 94.75 * GIB),
}
# PCI Express with 16 lanes, both directions.
_PCIE4, _PCIE5 = 64, 128
# Words of the device's name, all of which have to be in it, the more special entry first.
# Source: NVIDIA's data sheets of each card. Where they state FLOP/s with sparsity, this is half.
_GPU = (
    (("GB200",), _chip(2500, 186e9, 8000, 1800)),
    (("B200",), _chip(2250, 180e9, 7700, 1800)),
    (("GH200",), _chip(989.5, 96e9, 4000, 900)),
    (("H200", "NVL"), _chip(835.5, 141e9, 4800, 900)),
    (("H200",), _chip(989.5, 141e9, 4800, 900)),
    (("H100", "NVL"), _chip(835.5, 94e9, 3900, 600)),
    (("H100", "PCIe"), _chip(756.5, 80e9, 2000, _PCIE5)),
    (("H100",), _chip(989.5, 80e9, 3350, 900)),
    (("A100", "80GB", "PCIe"), _chip(312, 80e9, 1935, _PCIE4)),
    (("A100", "80GB"), _chip(312, 80e9, 2039, 600)),
    (("A100", "PCIe"), _chip(312, 40e9, 1555, _PCIE4)),
    (("A100", "PCIE"), _chip(312, 40e9, 1555, _PCIE4)),
    (("A100",), _chip(312, 40e9, 1555, 600)),
    (("A40",), _chip(149.7, 48e9, 696, _PCIE4)),
    (("A30",), _chip(165, 24e9, 933, _PCIE4)),
    (("A10G",), _chip(70, 24e9, 600, _PCIE4)),
    (("A10",), _chip(125, 24e9, 600, _PCIE4)),
    (("L40S",), _chip(362, 48e9, 864, _PCIE4)),
    (("L40",), _chip(181, 48e9, 864, _PCIE4)),
    (("L4",), _chip(121, 24e9, 300, _PCIE4)),
)


def chip(device: Any) -> Chip | None:
    """Returns the published rates of a device, None where they are not known.

    They are not known for CPUs, GPUs without bfloat16 and slices of a GPU (MIG).

    Args:
      device: has a `device_kind`, as the devices of `jax.devices()` do.
    """
    kind = device.device_kind
    if kind in _TPU:
        return _TPU[kind]
    words = set(re.findall(r"\w+", kind))
    if "MIG" in words:
        return None
    return next((rates for needed, rates in _GPU if words.issuperset(needed)), None)


def peak_flops(device: Any) -> float | None:
    """Returns the dense bfloat16 peak of a device in FLOP/s, None where it is not known.

    Args:
      device: see `chip`.
    """
    rates = chip(device)
    return None if rates is None else rates.flops


def mfu(flops_per_second: float, devices: Sequence[Any]) -> float | None:
    """Returns the model FLOP utilisation: FLOP/s of the model over the peak of all devices.

    The FLOPs are those the model needs, three times the forward pass for a training step; what
    rematerialisation computes anew does not count (Chowdhery et al. 2022, PaLM, appendix B).

    Args:
      flops_per_second: of the whole run.
      devices: every device of the run.

    Returns:
      A fraction, None where the peak of a device is not known.
    """
    peaks = [peak_flops(device) for device in devices]
    return None if None in peaks else flops_per_second / sum(peaks)
