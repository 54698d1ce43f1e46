"""What a compiled program reads and writes in the main memory of a device.

What stays inside of a fusion does not leave the chip, and what XLA keeps in a TPU's vector memory
does not either. A fusion that takes a slice of an array reads the slice.
"""

from vit_jax.ahead.hlo import Array, Computation, Instruction, Program, called_names

# They name, join or hold what is in memory already, or count where they are carried out.
_FREE = (
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "add-dependency"),
    *("while", "call", "conditional", "after-all", "opt-barrier", "partition-id", "replica-id"),
    *("copy-done", "all-gather-done", "all-reduce-done", "collective-permute-done"),
    *("async-update", "async-done", "send-done", "recv-done"),
)
_NO_TRAFFIC = ("AllocateBuffer", "ConcatBitcast")  # custom calls that touch no memory
_SLICES = ("dynamic-slice", "slice", "gather")
_PASSED_ON = ("bitcast", "convert", "copy", "reshape", "transpose")


def bytes_accessed(program: Program) -> float:
    """Returns the bytes that a program of one device reads and writes in a step."""
    return sum(
        times * _bytes(program, computation, instruction)
        for computation, times in program.executions
        for instruction in computation.instructions.values()
    )


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
    elif instruction.opcode == "send":  # its result is what it was given
        written = ()
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


def _target(instruction: Instruction) -> str | None:
    return instruction.attribute(r'custom_call_target="([^"]*)"')
