"""A compiled program as XLA prints it: computations, instructions, and how often each runs.

`jax.stages.Compiled.as_text()` is the optimized program of one device, and `hlo_text` reads it.
XLA's own `cost_analysis()` counts the body of a loop once, however often the loop runs; so what is
asked of a program here is asked of its text, and `executions` says how often each computation runs.

https://openxla.org/xla/operation_semantics has the operations; the text format is that of
`HloModule::ToString`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bits of an element; what is not here is 8 bits times the number at the end of its name.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "opaque": 0}
NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|(?:branch|true|false)_computations?)=")
_RUN = ("call", "conditional", "call-start", "async-start")
_LESS = {"LT": 0, "LE": 1}


@dataclasses.dataclass(frozen=True)
class Array:
    """An array's type, without its values.

    Attributes:
      dtype: as XLA names it, such as "bf16".
      shape: of one device's part.
      space: memory it is kept in; 0 is the device's main memory, 1 a TPU's vector memory (VMEM).
    """

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the elements; what a layout pads is not counted."""
        return math.ceil(self.elements * _bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: unique in its computation.
      opcode: such as "all-gather".
      arrays: of the result; several where it is a tuple.
      elements: those of each element of it, where it is a tuple, which may hold tuples.
      operands: names of the instructions whose results it takes.
      inside: the text between the parentheses.
      attributes: the text after them.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    elements: tuple[tuple[Array, ...], ...]
    operands: tuple[str, ...]
    inside: str
    attributes: str

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from, "" where XLA does not say."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    def attribute(self, pattern: str) -> str | None:
        """Returns the group of a pattern in the attributes, None where it does not occur."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def called(self, what: str) -> str | None:
        """Returns the name of the computation it calls as `what`, such as "body"."""
        return self.attribute(rf"\b{what}=%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of a program: its instructions by name, in order, and the one it returns."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operand_arrays(self, instruction: Instruction) -> tuple[Array, ...]:
        """Returns the arrays that an instruction takes."""
        known = self.instructions
        return tuple(
            x for name in instruction.operands if name in known for x in known[name].arrays
        )


@dataclasses.dataclass(frozen=True)
class Program:
    """A module: its computations by name, and the one that runs."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction, what: str) -> Computation | None:
        """Returns the computation that an instruction calls as `what`, such as "body"."""
        name = instruction.called(what)
        return None if name is None else self.computations[name]

    @functools.cached_property
    def executions(self) -> tuple[tuple[Computation, int], ...]:
        """The computations that run by themselves, and how often: the entry, and bodies of loops.

        What is called runs too, at once or asynchronously. What a fusion or a reduction calls is
        part of its instruction. A loop whose length is not known runs once here, see
        `unknown_loops`. Of a conditional every branch counts.
        """
        return tuple(self._run(self.computations[self.entry], 1))

    def _run(self, computation: Computation, times: int) -> Iterator[tuple[Computation, int]]:
        yield computation, times
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                trips = self.trip_count(instruction, computation)
                trips = times * (1 if trips is None else trips)
                yield from self._run(self.computations[instruction.called("body")], trips)
            elif instruction.opcode in _RUN:
                for name in called_names(instruction):
                    yield from self._run(self.computations[name], times)

    @property
    def unknown_loops(self) -> int:
        """How many loops there are whose length the text does not tell."""
        return sum(
            self.trip_count(instruction, computation) is None
            for computation, _ in self.executions
            for instruction in computation.instructions.values()
            if instruction.opcode == "while"
        )

    @property
    def conditionals(self) -> int:
        """How many choices between branches there are; of each, every branch counts."""
        return sum(
            instruction.opcode == "conditional"
            for computation, _ in self.executions
            for instruction in computation.instructions.values()
        )

    def trip_count(self, loop: Instruction, computation: Computation) -> int | None:
        """Returns how often the body of a loop runs, None where it cannot be seen.

        XLA says it, or the condition compares a counter with a constant that it goes up to by
        another constant each round.

        Args:
          loop: the "while".
          computation: that it stands in.
        """
        said = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if said is not None:
            return int(said)
        limit = self._limit(self.called(loop, "condition"))
        if limit is None:
            return None
        index, end = limit
        start = _initial(loop, index, computation)
        step = self._step(self.called(loop, "body"), index)
        if start is None or step is None:
            return None
        return max(math.ceil((end - start) / step), 0)

    def _limit(self, condition: Computation) -> tuple[int, int] | None:
        """Which element of the loop's state is counted, and up to where, without it."""
        root = condition.instructions[condition.root]
        compared, known = self._unfused(root, condition)
        direction = compared.attribute(r"direction=(\w+)")
        if compared.opcode != "compare" or direction not in _LESS:
            return None
        counter, end = known
        index = None if counter is None else _index(counter)
        if index is None or end is None or not _is_number(end):
            return None
        return index, int(end.inside) + _LESS[direction]

    def _step(self, body: Computation, index: int) -> int | None:
        """By how much an element of the loop's state goes up in a round, None: not a constant."""
        root = body.instructions[body.root]
        if root.opcode != "tuple":
            return None
        after = _moved(body.instructions[root.operands[index]], body)
        added, known = self._unfused(after, body)
        if added.opcode != "add" or None in known:
            return None
        numbers = [int(x.inside) for x in known if _is_number(x)]
        before = [_moved(x, body) for x in known if not _is_number(x)]
        if len(numbers) != 1 or numbers[0] <= 0 or _index(before[0]) != index:
            return None
        return numbers[0] if before[0].operands[0] in _parameters(body) else None

    def _unfused(
        self, instruction: Instruction, computation: Computation
    ) -> tuple[Instruction, list[Instruction | None]]:
        """An instruction and its operands; of a fusion its root, which may be all it consists of.

        None stands for what is not at hand.
        """
        known, names = computation.instructions, list(instruction.operands)
        if instruction.opcode == "fusion":
            inner = self.called(instruction, "calls")
            outside = dict(zip(_parameters(inner), instruction.operands))
            instruction = inner.instructions[inner.root]
            names = [outside.get(name, name) for name in instruction.operands]
            known = {**inner.instructions, **known}
        return instruction, [known.get(name) for name in names]


def called_names(instruction: Instruction) -> list[str]:
    """Returns the names of all computations that an instruction calls."""
    found = []
    for match in _CALLED.finditer(instruction.attributes):
        rest = instruction.attributes[match.end() :]
        listed = rest[1 : rest.index("}")] if rest.startswith("{") else rest.split(",")[0]
        found += NAME.findall(listed)
    return found


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    return int(re.match(r"[a-z]+(\d+)", dtype)[1])


def _is_number(instruction: Instruction) -> bool:
    return instruction.opcode == "constant" and instruction.inside.lstrip("-").isdigit()


def _parameters(computation: Computation) -> list[str]:
    found = [x for x in computation.instructions.values() if x.opcode == "parameter"]
    return [x.name for x in sorted(found, key=lambda x: int(x.inside))]


def _initial(loop: Instruction, index: int, computation: Computation) -> int | None:
    """The value of an element of a loop's state before the first round, 0 or another constant."""
    state = computation.instructions[loop.operands[0]]
    if state.opcode != "tuple":
        return None
    first = _moved(computation.instructions[state.operands[index]], computation)
    return int(first.inside) if _is_number(first) else None


def _moved(instruction: Instruction, computation: Computation) -> Instruction:
    """What an instruction copies; itself, where it does something else."""
    while instruction.opcode in ("copy", "bitcast", "copy-start", "copy-done"):
        instruction = computation.instructions[instruction.operands[0]]
    return instruction


def _index(instruction: Instruction) -> int | None:
    """Which element of a tuple it takes; None: it does something else."""
    if instruction.opcode != "get-tuple-element":
        return None
    return int(instruction.attribute(r"index=(\d+)"))
