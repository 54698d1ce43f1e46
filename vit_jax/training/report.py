"""What a run says about itself before the first step."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding


def parameter_table(params: Any, shardings: Any = None, width: int | None = None) -> str:
    """Returns a table with a line for each parameter and a total.

    Args:
      params: tree of arrays or `jax.ShapeDtypeStruct`s.
      shardings: tree of `NamedSharding`s of the same structure; None: those of the arrays.
      width: columns of a terminal; where they are too few, what the others let one see is left out:
        the size, which is that of the shape, and a dtype that all have. None: there are enough.

    Returns:
      Columns name, shape, dtype, sharding (mesh axes of each array axis, "-" for none), what of it
      a device holds, and size (number of elements).
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    places = [getattr(x, "sharding", None) for _, x in leaves]
    if shardings is not None:
        places = jax.tree.structure(params).flatten_up_to(shardings)
    rows = [("name", "shape", "dtype", "sharding", "a device", "size")]
    for (path, x), place in zip(leaves, places):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = "x".join(map(str, x.shape)) or "scalar"
        held = bytes_text(_held(x, place))
        rows.append((name, shape, x.dtype.name, _placement(x.shape, place), held, f"{x.size:,}"))
    total = sum(x.size for _, x in leaves)
    held = bytes_text(sum(_held(x, place) for (_, x), place in zip(leaves, places)))
    rows.append(("total", "", "", bytes_text(_num_bytes(params)), held, f"{total:,}"))
    columns = [_aligned(column) for column in zip(*rows)]
    columns[-1] = _aligned((row[-1] for row in rows), str.rjust)
    if _too_wide(columns, width):
        columns.pop()
    if _too_wide(columns, width) and len({x.dtype for _, x in leaves}) == 1:
        columns.pop(rows[0].index("dtype"))
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns))


def _aligned(cells: Iterable[str], align: Callable = str.ljust) -> list[str]:
    """The cells of a column, all as wide as the widest."""
    cells = list(cells)
    return [align(cell, max(map(len, cells))) for cell in cells]


def _too_wide(columns: Sequence[Sequence[str]], width: int | None) -> bool:
    return width is not None and sum(len(x[0]) + 2 for x in columns) - 2 > width


def run_header(
    name: str,
    params: Any,
    trained: Any,
    flops: tuple[float, float],
    mesh: Mesh,
    batch_size: int,
    *,
    state_bytes: int,
    batch_axes: Sequence[str] = ("data", "fsdp"),
    accumulate_steps: int = 1,
) -> str:
    """Returns a few lines: model, parameters, FLOPs, mesh and layout of the batch.

    Args:
      name: of the model.
      params: tree of arrays or `jax.ShapeDtypeStruct`s, all of them.
      trained: tree of those that are trained.
      flops: of one image, in the forward pass and in a step of training.
      mesh: the device mesh.
      batch_size: images an update, over all devices.
      state_bytes: that a device holds of parameters, averages and moments.
      batch_axes: mesh axes that split the batch.
      accumulate_steps: parts in which the batch is computed one after the other.
    """
    count, moving = (sum(x.size for x in jax.tree.leaves(t)) for t in (params, trained))
    some = "" if moving == count else f", of which {moving:,} are trained"
    size = bytes_text(_num_bytes(params))
    kinds = " and ".join(sorted({x.dtype.name for x in jax.tree.leaves(params)}))
    device = mesh.devices.flat[0]
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    processes = len({d.process_index for d in mesh.devices.flat})
    shards = math.prod(mesh.shape[axis] for axis in batch_axes)
    rows = batch_size / (shards * accumulate_steps)
    layout = f"{batch_size} images an update, {rows:g} at a time on each of {shards} shards"
    if accumulate_steps > 1:
        layout += f", accumulated over {accumulate_steps} parts"
    return "\n".join(
        [
            f"model   {name}: {count:,} parameters, {size} of {kinds}{some}",
            f"compute {_giga(flops[0])} GFLOPs an image forward, {_giga(flops[1])} in training",
            f"mesh    {axes}: {_plural(mesh.size, 'device')} ({device.device_kind}), "
            f"{_plural(processes, 'process', 'processes')}",
            f"state   {bytes_text(state_bytes)} on each device",
            f"batch   {layout}",
        ]
    )


def bytes_a_device(tree: Any, shardings: Any) -> int:
    """Returns what a device holds of a tree.

    Args:
      tree: of arrays or `jax.ShapeDtypeStruct`s.
      shardings: tree of `NamedSharding`s of the same structure.
    """
    places = jax.tree.structure(tree).flatten_up_to(shardings)
    return sum(_held(x, place) for x, place in zip(jax.tree.leaves(tree), places))


def _held(x: Any, place: Any) -> int:
    shape = place.shard_shape(x.shape) if isinstance(place, NamedSharding) else x.shape
    return math.prod(shape) * x.dtype.itemsize


def bytes_text(count: float) -> str:
    """Returns a number of bytes in the unit that suits it, such as "330.2 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _num_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _placement(shape: tuple[int, ...], place: Any) -> str:
    """The mesh axes of each array axis: "fsdp,-" for rows over fsdp and whole columns."""
    if not isinstance(place, NamedSharding) or not shape:
        return "-"
    spec = [*place.spec, *[None] * (len(shape) - len(place.spec))]
    names = [axes if axes is None or isinstance(axes, str) else "+".join(axes) for axes in spec]
    return ",".join(name or "-" for name in names)


def _giga(count: float) -> str:
    """In units of 1e9, three digits at least."""
    count /= 1e9
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
