"""What devices send each other in a step, read from the compiled program.

| collective | a device sends, of n bytes in and groups of g devices |
|---|---|
| all-gather | n (g - 1) |
| reduce-scatter | n (g - 1) / g |
| all-reduce | 2 n (g - 1) / g: a reduce-scatter and an all-gather |
| all-to-all | n (g - 1) / g |
| collective-permute | n |

That is what leaves a device of the data that it has to give; no algorithm sends less, and those of
a ring send as much (Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication
Operations in MPICH", sections 4 and 5), but for all-to-all and permutations: what goes to a device
further away is forwarded by those in between, which is not counted.

A collective is in the text once, or as a `-start` and a `-done`. Where a TPU overlaps it with
computation it is in every fusion that drives it on, which may be in a loop; all parts have one
`channel_id`, and it counts where the part with `AsyncCollectiveStart` is. On TPUs an all-reduce of
which a device keeps its part alone is a fusion called `all-reduce-scatter`.

Where there are several TPU slices the program is that of one of them, and its collectives are among
the devices of one. What goes from slice to slice is a `send` to the host and a `recv` from it, on
which the runtime (Megascale) does what `_xla_megascale_transfer_type` says, with the device at the
same place in each of the slices that `_xla_megascale_target` names.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from vit_jax.ahead.hlo import Array, Computation, Instruction, Program, called_names

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_SCATTERED = "all-reduce-scatter"
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}")
_GRID = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_BETWEEN = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
_TRANSFER = r'_xla_megascale_transfer_type="(\w+)"'
_TARGET = r'_xla_megascale_target="\{([\d,]+)\}'
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of the program.

    Attributes:
      kind: one of `KINDS`.
      arrays: what a device puts in.
      group: number of devices that exchange.
      times: how often it runs in a step.
      op_name: where in the traced function it comes from.
      between_slices: whether those that exchange are in different TPU slices.
    """

    kind: str
    arrays: tuple[Array, ...]
    group: int
    times: int
    op_name: str
    between_slices: bool = False

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        given = sum(array.bytes for array in self.arrays)
        share = (self.group - 1) / self.group
        factor = {
            "all-gather": self.group - 1,
            "all-reduce": 2 * share,
            "reduce-scatter": share,
            "all-to-all": share,
            "collective-permute": 1,
        }[self.kind]
        return self.times * given * factor


def collectives(program: Program, devices: int, slices: int = 1) -> list[Collective]:
    """Returns every collective of a program once; those within one device are left out.

    Args:
      program: of one device.
      devices: how many run it.
      slices: of TPUs that they are of, as many of each.
    """
    started, inside = _started(program), devices // slices
    found = []
    for computation, times in program.executions:
        for where, instruction in _parts(program, computation):
            kind, channel = _kind(instruction), _channel(instruction)
            if kind is None or where.name not in started.get(channel, (where.name,)):
                continue
            if kind == "all-reduce" and where.name.startswith(_SCATTERED):
                kind = "reduce-scatter"
            between = instruction.opcode == "send"
            group = _slices(instruction, slices) if between else _group(instruction, inside)
            if group > 1:
                given = where.operand_arrays(instruction)
                arrays = tuple(array for array in given if array.bytes)  # a token has none
                found.append(Collective(kind, arrays, group, times, instruction.op_name, between))
    return found


def _started(program: Program) -> dict[str, set[str]]:
    """In which computations collectives that run in several parts begin, by channel."""
    found: dict[str, set[str]] = {}
    for computation in program.computations.values():
        instructions = computation.instructions.values()
        if any('"AsyncCollectiveStart"' in x.attributes for x in instructions):
            for instruction in instructions:
                if _kind(instruction) is not None:
                    found.setdefault(_channel(instruction), set()).add(computation.name)
    return found


def _parts(program: Program, computation: Computation) -> Iterator[tuple[Computation, Instruction]]:
    """Every instruction of a computation and of what its fusions call."""
    for instruction in computation.instructions.values():
        yield computation, instruction
        if instruction.opcode in ("fusion", "fusion-start"):
            for name in called_names(instruction):
                yield from _parts(program, program.computations[name])


def _channel(instruction: Instruction) -> str:
    if instruction.opcode == "send":  # whose channels have numbers of their own
        return instruction.name
    return instruction.attribute(r"channel_id=(\d+)") or instruction.name


def _kind(instruction: Instruction) -> str | None:
    if instruction.opcode == "send":
        return _BETWEEN.get(instruction.attribute(_TRANSFER))
    kind = instruction.opcode.removesuffix("-start").removeprefix("ragged-")
    return kind if kind in KINDS else None


def _slices(instruction: Instruction, slices: int) -> int:
    """The number of slices that exchange; all where the program does not say which."""
    named = instruction.attribute(_TARGET)
    return len(named.split(",")) if named else slices


def _group(instruction: Instruction, devices: int) -> int:
    """The number of devices that exchange; XLA writes groups in three ways, or none for all."""
    text = instruction.attributes
    if instruction.opcode.startswith("collective-permute"):
        pairs = re.findall(r"\{(\d+),(\d+)\}", instruction.attribute(r"source_target_pairs=(\S+)"))
        return 2 if any(source != target for source, target in pairs) else 1
    if mesh := _MESH.search(text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'x':(2)4 is a part of axis x
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if grid := _GRID.search(text):
        return int(grid[1])
    if listed := _LISTED.search(text):
        return len(listed[1].split(","))
    return devices
