"""What a device can do at most, and which part of it a run makes use of."""

import re
from collections.abc import Sequence
from typing import Any

# Dense bfloat16 multiply-adds with float32 accumulation, in FLOP/s (an addition and a
# multiplication count as two). For each TPU device as JAX counts them: v2, v3 and TPU7x show every
# core (half a chip) as one device, the others a chip.
# Sources: cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}, "peak compute per chip".
_TPU = {
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
}
# Words of the device's name, all of which have to be in it, the more special entry first.
# Source: NVIDIA's data sheets of each card. Where they state a value with sparsity, this is half.
_GPU = (
    (("GB200",), 2500e12),
    (("B200",), 2250e12),
    (("GH200",), 989.5e12),
    (("H200", "NVL"), 835.5e12),
    (("H200",), 989.5e12),
    (("H100", "NVL"), 835.5e12),
    (("H100", "PCIe"), 756.5e12),
    (("H100",), 989.5e12),
    (("A100",), 312e12),
    (("A40",), 149.7e12),
    (("A30",), 165e12),
    (("A10G",), 70e12),
    (("A10",), 125e12),
    (("L40S",), 362e12),
    (("L40",), 181e12),
    (("L4",), 121e12),
)


def peak_flops(device: Any) -> float | None:
    """Returns the dense bfloat16 peak of a device in FLOP/s, None where it is not known.

    It is not known for CPUs, GPUs without bfloat16 and slices of a GPU (MIG).

    Args:
      device: has a `device_kind`, as the devices of `jax.devices()` do.
    """
    kind = device.device_kind
    if kind in _TPU:
        return _TPU[kind]
    words = set(re.findall(r"\w+", kind))
    if "MIG" in words:
        return None
    return next((peak for needed, peak in _GPU if words.issuperset(needed)), None)


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
