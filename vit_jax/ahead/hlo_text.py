"""Reads the text of a compiled program, see `hlo`."""

import re

from vit_jax.ahead.hlo import NAME, Array, Computation, Instruction, Program

_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_LINE = re.compile(r"\s*(ROOT )?%([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")


def parse(text: str) -> Program:
    """Reads what `Compiled.as_text()` returns.

    Raises:
      RuntimeError: it has no computation that is the entry.
    """
    computations, entry, name = {}, None, None
    lines: list[tuple[bool, Instruction]] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}") and name is not None:
            root = next(x.name for is_root, x in lines if is_root)
            computations[name] = Computation(name, {x.name: x for _, x in lines}, root)
            name = None
        elif name is not None and _LINE.match(line):
            lines.append(_instruction(line))
    if entry is None:
        raise RuntimeError("the text is not that of a compiled program: it has no ENTRY")
    return Program(computations, entry)


def _instruction(line: str) -> tuple[bool, Instruction]:
    line = re.sub(r"/\*.*?\*/", "", line)
    start = _LINE.match(line)
    end = _end_of_type(line, start.end())
    opening = line.index("(", end)
    closing = _matching(line, opening)
    inside = line[opening + 1 : closing]
    return bool(start[1]), Instruction(
        name=start[2],
        opcode=line[end:opening].strip(),
        arrays=_arrays_of(line[start.end() : end]),
        elements=tuple(map(_arrays_of, _elements(line[start.end() : end]))),
        operands=tuple(NAME.findall(inside)),
        inside=inside,
        attributes=line[closing + 1 :],
    )


def _arrays_of(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a type as XLA writes it, such as `(f32[2]{0}, s32[]{:S(1)})`."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        shape = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        found.append(Array(dtype, shape, int(space[1]) if space else 0))
    return tuple(found)


def _elements(text: str) -> list[str]:
    """Returns the types that a tuple's type consists of; none of what is no tuple."""
    found, depth = [], 0
    if text.startswith("("):
        for letter in text:
            if letter in "([{":
                depth += 1
            if letter in ")]}":
                depth -= 1
            if depth == 1 and letter in "(,":
                found.append("")
            elif depth > 0:
                found[-1] += letter
    return found


def _end_of_type(line: str, start: int) -> int:
    if line[start] == "(":
        return _matching(line, start) + 1
    return line.index(" ", start)


def _matching(line: str, opening: int) -> int:
    """Returns where the parenthesis at `opening` closes; quoted text may hold any."""
    depth, quoted = 0, False
    for i in range(opening, len(line)):
        if line[i] == '"' and line[i - 1] != "\\":
            quoted = not quoted
        if not quoted:
            depth += (line[i] == "(") - (line[i] == ")")
        if depth == 0:
            return i
    raise RuntimeError(f"a parenthesis does not close: {line[opening : opening + 80]}")
