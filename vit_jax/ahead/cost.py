"""How much a compiled program computes and moves through the memory of a device.

FLOPs are those of matrix products and convolutions, 2 for a multiply-add: what a chip's peak rate
is about, and what `module.flops()` counts. XLA's `cost_analysis()` adds element-wise work to them
and counts the body of a loop once; here a loop counts as often as it runs.

Bytes are what each instruction reads and writes in the device's main memory. What stays inside of a
fusion does not leave the chip, and what XLA keeps in a TPU's vector memory does not either.
"""

import dataclasses
import json
import math
import re

from vit_jax.ahead.hlo import Array, Computation, Instruction, Program, called_names

MATRIX = ("dot", "convolution")
# They name, join or hold what is in memory already, or count where they are carried out.
_FREE = (
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "add-dependency"),
    *("while", "call", "conditional", "after-all", "opt-barrier", "partition-id", "replica-id"),
    *("copy-done", "all-gather-done", "all-reduce-done", "collective-permute-done"),
    *("async-update", "async-done"),
)
_NO_TRAFFIC = ("AllocateBuffer", "ConcatBitcast")  # custom calls that touch no memory
_SLICES = ("dynamic-slice", "slice", "gather")
# The backward kernels of JAX's flash attention do not say what they compute: how many products of
# (n, hd) and (hd, m), or alike, each of them makes (Dao et al. 2022, FlashAttention, algorithm 4).
_FLASH = {"flash_mha_bwd_dkv": 4, "flash_mha_bwd_dq": 3}
_PASSED_ON = ("bitcast", "convert", "copy", "reshape", "transpose")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device, in one step.

    Attributes:
      flops: of matrix products and convolutions.
      bytes: read and written in main memory.
      unknown_kernels: names of the kernels that do not say what they compute; they count 0 FLOPs.
    """

    flops: float
    bytes: float
    unknown_kernels: tuple[str, ...]


def cost(program: Program) -> Cost:
    """Returns what a program of one device computes and moves."""
    flops, moved, unknown = 0.0, 0.0, set()
    for computation, times in program.executions:
        for instruction in computation.instructions.values():
            flops += times * _flops(program, computation, instruction, unknown)
            moved += times * _bytes(program, computation, instruction)
    return Cost(flops, moved, tuple(sorted(unknown)))


def _flops(
    program: Program, computation: Computation, instruction: Instruction, unknown: set[str]
) -> float:
    if instruction.opcode == "dot":
        return _dot_flops(instruction, computation.operand_arrays(instruction)[0])
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, *computation.operand_arrays(instruction))
    if instruction.opcode == "custom-call":
        return _kernel_flops(computation, instruction, unknown)
    if instruction.opcode in ("fusion", "async-start"):
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
    count, end = 0, (image - 1) * image_dilation
    for k in range(kernel):
        for o in range(out):
            position = o * stride - before + k * kernel_dilation
            count += 0 <= position <= end and position % image_dilation == 0
    return count


def _kernel_flops(computation: Computation, kernel: Instruction, unknown: set[str]) -> float:
    """What a kernel of Pallas says that it computes; the calls that XLA makes compute nothing."""
    if _target(kernel) != "tpu_custom_call":
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


def _target(instruction: Instruction) -> str | None:
    return instruction.attribute(r'custom_call_target="([^"]*)"')


def _bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    if instruction.opcode in _FREE or _target(instruction) in _NO_TRAFFIC:
        return 0.0
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _in_memory(_operand(computation, instruction, 1))
    if instruction.opcode in _SLICES:
        return 2 * _in_memory(instruction.arrays)
    written = instruction.arrays
    if instruction.opcode.endswith("-start"):  # (what is copied, the copy, a flag)
        written = written[1:2]
    read = [_operand(computation, instruction, i) for i in range(len(instruction.operands))]
    inside = [program.computations[name] for name in called_names(instruction)]
    if instruction.opcode == "fusion" and inside:
        return _fusion_bytes(program, inside[0], read, written)
    return sum(map(_in_memory, read)) + _in_memory(written)


def _fusion_bytes(
    program: Program,
    inside: Computation,
    read: list[tuple[Array, ...]],
    written: tuple[Array, ...],
) -> float:
    """Of a fusion: what it only takes a slice of counts as that, what it updates as the update."""
    total = 0.0
    for place, arrays in enumerate(read):
        if all(array.space == 0 for array in arrays):
            size = sum(array.bytes for array in arrays)
            total += min(size, _read(program, inside, place, size))
    for root, array in zip(_results(program, inside), written):
        total += _in_memory((array,)) and min(array.bytes, root)
    return total


def _read(program: Program, inside: Computation, place: int, whole: float) -> float:
    """Bytes that a fusion reads of its parameter number `place`, which has `whole`."""
    instructions = inside.instructions.values()
    pending = [x.name for x in instructions if x.opcode == "parameter" and x.inside == str(place)]
    total = 0.0
    while pending:
        name = pending.pop()
        for user in (x for x in instructions if name in x.operands):
            first = user.operands[0] == name
            if user.opcode in _SLICES and first:
                total += sum(array.bytes for array in user.arrays)
            elif user.opcode == "dynamic-update-slice" and first:
                continue  # overwritten in place
            elif user.opcode == "bitcast":
                pending.append(user.name)
            elif user.opcode == "fusion":
                inner = program.called(user, "calls")
                total += sum(
                    _read(program, inner, i, whole)
                    for i, x in enumerate(user.operands)
                    if x == name
                )
            else:
                return whole
    return total


def _results(program: Program, inside: Computation) -> list[float]:
    """Bytes that a fusion writes of each of its results."""
    root = inside.instructions[inside.root]
    names = root.operands if root.opcode == "tuple" else (root.name,)
    return [_written(program, inside, inside.instructions[name]) for name in names]


def _written(program: Program, inside: Computation, root: Instruction) -> float:
    while root.opcode in _PASSED_ON and root.operands[0] in inside.instructions:
        root = inside.instructions[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in inside.instructions[root.operands[1]].arrays)
    if root.opcode == "fusion" and len(root.arrays) == 1:
        return _results(program, program.called(root, "calls"))[0]
    return sum(array.bytes for array in root.arrays)


def _operand(computation: Computation, instruction: Instruction, i: int) -> tuple[Array, ...]:
    known = computation.instructions.get(instruction.operands[i])
    return known.arrays if known else ()


def _in_memory(arrays: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in arrays if array.space == 0)


def _split(numbers: str) -> list[str]:
    return [number for number in numbers.split(",") if number]
