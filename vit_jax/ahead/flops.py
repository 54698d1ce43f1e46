"""How much a compiled program computes.

FLOPs are those of matrix products and convolutions, 2 for a multiply-add: what a chip's peak rate
is about, and what `module.flops()` counts. XLA's `cost_analysis()` adds element-wise work to them
and counts the body of a loop once; here a loop counts as often as it runs.
"""

import dataclasses
import json
import math
import re

import numpy as np

from vit_jax.ahead.hlo import Array, Computation, Instruction, Program, called_names

# The backward kernels of JAX's flash attention do not say what they compute: how many products of
# (n, hd) and (hd, m), or alike, each of them makes (Dao et al. 2022, FlashAttention, algorithm 4).
_FLASH = {"flash_mha_bwd_dkv": 4, "flash_mha_bwd_dq": 3}


@dataclasses.dataclass(frozen=True)
class Flops:
    """Of one device, in one step.

    Attributes:
      count: of matrix products and convolutions.
      unknown_kernels: names of the kernels that do not say what they compute; they count 0.
    """

    count: float
    unknown_kernels: tuple[str, ...]


def flops(program: Program) -> Flops:
    """Returns what a program of one device computes."""
    unknown: set[str] = set()
    count = sum(
        times * _flops(program, computation, instruction, unknown)
        for computation, times in program.executions
        for instruction in computation.instructions.values()
    )
    return Flops(count, tuple(sorted(unknown)))


def _flops(
    program: Program, computation: Computation, instruction: Instruction, unknown: set[str]
) -> float:
    if instruction.opcode == "dot":
        return _dot_flops(instruction, computation.operand_arrays(instruction)[0])
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, *computation.operand_arrays(instruction))
    if instruction.opcode in ("custom-call", "custom-call-start"):
        return _kernel_flops(computation, instruction, unknown)
    if instruction.opcode in ("fusion", "fusion-start"):
        inside = [program.computations[name] for name in called_names(instruction)]
        return sum(
            _flops(program, inner, x, unknown)
            for inner in inside
            for x in inner.instructions.values()
        )
    return 0.0


def _dot_flops(dot: Instruction, left: Array) -> float:
    contracted = dot.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    return 2 * dot.arrays[0].elements * math.prod(left.shape[int(i)] for i in _split(contracted))


def _convolution_flops(convolution: Instruction, image: Array, kernel: Array) -> float:
    """Twice the number of products of an element of the image and one of the kernel.

    XLA on TPUs writes matrix products with several batch dimensions as convolutions that dilate and
    pad; what falls on padding or between elements is no product.
    """
    labels = convolution.attribute(r"dim_labels=(\S+?)(?:,|$)")
    image_labels, rest = labels.split("_")
    kernel_labels, out_labels = rest.split("->")
    out = convolution.arrays[0]
    total = 2 * out.shape[out_labels.index("b")] * out.shape[out_labels.index("f")]
    total *= kernel.shape[kernel_labels.index("i")]
    spatial = [label for label in out_labels if label.isdigit()]
    window = _window(convolution, len(spatial))
    for label, along in zip(sorted(spatial, key=int), window):
        total *= _products(
            image.shape[image_labels.index(label)],
            kernel.shape[kernel_labels.index(label)],
            out.shape[out_labels.index(label)],
            **along,
        )
    batches = convolution.attribute(r"batch_group_count=(\d+)")
    return total / int(batches or 1)


def _window(convolution: Instruction, dimensions: int) -> list[dict[str, int]]:
    """Stride, padding and dilations along each spatial dimension."""
    text = convolution.attribute(r"window=\{([^}]*)\}") or ""
    given = dict(part.split("=") for part in text.split())
    found = []
    for i in range(dimensions):

        def at(key: str, default: str, i: int = i) -> str:
            return given[key].split("x")[i] if key in given else default

        found.append(
            {
                "stride": int(at("stride", "1")),
                "before": int(at("pad", "0_0").split("_")[0]),
                "image_dilation": int(at("lhs_dilate", "1")),
                "kernel_dilation": int(at("rhs_dilate", "1")),
            }
        )
    return found


def _products(
    image: int,
    kernel: int,
    out: int,
    stride: int,
    before: int,
    image_dilation: int,
    kernel_dilation: int,
) -> int:
    """How many pairs of an output and a kernel's element meet an element of the image."""
    count, end, starts = 0, (image - 1) * image_dilation, np.arange(out) * stride - before
    for k in range(kernel):
        positions = starts + k * kernel_dilation
        meets = (positions >= 0) & (positions <= end) & (positions % image_dilation == 0)
        count += int(meets.sum())
    return count


def _kernel_flops(computation: Computation, kernel: Instruction, unknown: set[str]) -> float:
    """What a kernel of Pallas says that it computes; the calls that XLA makes compute nothing."""
    target = kernel.attribute(r'custom_call_target="([^"]*)"') or ""
    if target.startswith("__"):  # of another library, such as __cublas$gemm
        unknown.add(target)
    if target != "tpu_custom_call":
        return 0.0
    said = re.search(r'"cost_estimate":(\{[^}]*\})', kernel.attributes)
    if said:
        return float(json.loads(said[1])["flops"])
    for name, products in _FLASH.items():
        if kernel.name.startswith(name):
            query, key = computation.operand_arrays(kernel)[:2]
            return products * 2 * query.elements * key.shape[-2]
    unknown.add(re.sub(r"[.\d]*$", "", kernel.name))
    return 0.0


def _split(numbers: str) -> list[str]:
    return [number for number in numbers.split(",") if number]
