"""What a compiled program reads and writes in the main memory of a device.

What stays inside of a fusion does not leave the chip, and what XLA keeps in a TPU's vector memory
does not either. A fusion that takes a slice of an array reads the slice. A collective that several
fusions drive on counts in the one that begins it; the others pass on where its arrays are.
"""

from vit_jax.ahead.collectives import KINDS
from vit_jax.ahead.hlo import Array, Computation, Instruction, Program, called_names

# They name, join or hold what is in memory already, or count where they are carried out.
_FREE = (
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "add-dependency"),
    *("while", "call", "conditional", "after-all", "opt-barrier", "partition-id", "replica-id"),
    *("call-start", "async-start"),
)
_CONTINUED = ("-done", "-update")  # what began with a `-start`, where it counts
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
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(_CONTINUED) or _target(instruction) in _NO_TRAFFIC:
        return 0.0
    opcode = opcode.removesuffix("-start")
    written = _results_of(instruction)
    read = [_operand(computation, instruction, i) for i in range(len(instruction.operands))]
    if opcode == "dynamic-update-slice":
        return _in_memory(read[1]) + _part_in_memory(read[1], written)
    if opcode in _SLICES:
        return _part_in_memory(written, read[0]) + _in_memory(written)
    if opcode == "fusion":
        inside = program.computations[called_names(instruction)[0]]
        return _fusion_bytes(program, inside, read, written)
    return sum(map(_in_memory, read)) + _in_memory(written)


def _results_of(instruction: Instruction) -> tuple[Array, ...]:
    """What an instruction writes.

    A `-start` names in its result what it is given and what it makes, and more: a copy is (the
    copy, what is copied, a flag), an all-reduce its result alone, all others (given, made, ...).
    """
    if instruction.opcode == "send":  # its result is what it was given
        return ()
    if instruction.opcode == "recv":  # (what it receives, a flag, a token)
        return instruction.elements[0]
    if not instruction.opcode.endswith("-start") or instruction.opcode == "all-reduce-start":
        return instruction.arrays
    return instruction.elements[0 if instruction.opcode == "copy-start" else 1]


def _fusion_bytes(
    program: Program,
    inside: Computation,
    read: list[tuple[Array, ...]],
    written: tuple[Array, ...],
) -> float:
    """Of a fusion: what it only takes a slice of counts as that, what it updates as the update."""
    target = _target(inside.instructions[inside.root])
    if target == "AsyncCollectiveDone":
        return 0.0
    if target == "AsyncCollectiveStart":  # its result: what it is given, what it makes, flags
        return sum(map(_in_memory, read)) + _in_memory(written[len(read) :])
    held, total = _passed_on(inside), 0.0
    for place, arrays in enumerate(read):
        if all(array.space == 0 for array in arrays):
            size = sum(array.bytes for array in arrays)
            total += min(size, _read(program, inside, place, size, held))
    for root, array in zip(_results(program, inside, held), written):
        if array.space == 0:
            total += min(array.bytes, root)
    return total


def _passed_on(inside: Computation) -> frozenset[str]:
    """Results of a fusion that it neither reads nor writes: what it is given, and a collective's.

    The collective is one that other fusions begin and end, on arrays that are among those.
    """
    root = inside.instructions[inside.root]
    if root.opcode != "tuple":
        return frozenset()
    results = [inside.instructions[name] for name in root.operands]
    given = {x.name for x in results if x.opcode == "parameter"}
    return frozenset(given | {x.name for x in results if given and x.opcode in KINDS})


def _read(
    program: Program,
    inside: Computation,
    place: int,
    whole: float,
    held: frozenset[str] = frozenset(),
) -> float:
    """Bytes that a fusion reads of its parameter number `place`, which has `whole`."""
    instructions = inside.instructions.values()
    pending = [x.name for x in instructions if x.opcode == "parameter" and x.inside == str(place)]
    total = 0.0
    while pending:
        name = pending.pop()
        for user in (x for x in instructions if name in x.operands):
            first = user.operands[0] == name
            if user.name in held or (user.name == inside.root and name in held):
                continue
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


def _results(
    program: Program, inside: Computation, held: frozenset[str] = frozenset()
) -> list[float]:
    """Bytes that a fusion writes of each of its results."""
    root = inside.instructions[inside.root]
    names = root.operands if root.opcode == "tuple" else (root.name,)
    return [
        0.0 if name in held else _written(program, inside, inside.instructions[name])
        for name in names
    ]


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


def _part_in_memory(part: tuple[Array, ...], whole: tuple[Array, ...]) -> float:
    """Bytes of a part of an array where that is in main memory, wherever the part itself goes."""
    return sum(array.bytes for array in part) if whole and whole[0].space == 0 else 0.0


def _target(instruction: Instruction) -> str | None:
    return instruction.attribute(r'custom_call_target="([^"]*)"')
