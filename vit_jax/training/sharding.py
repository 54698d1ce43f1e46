"""Where arrays live: a device mesh, and the table from logical axis names to mesh axes.

The mesh has four named axes. `data` splits the batch; `fsdp` splits the batch and the parameters
(each device holds a part of them and gathers the rest layer by layer); `sequence` splits the tokens
of each image, for high resolutions; `tensor` splits heads and hidden units. Parameters and
activations carry logical axis names ("embed", "heads", "tokens", ...); `config.sharding_rules` says
which mesh axes each name is split over.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit_jax import naming, ranges
from vit_jax.errors import UserError

AXES = ("data", "fsdp", "sequence", "tensor")

Rules = dict[str, tuple[str, ...]]

# Which mesh axes each logical axis is split over; None: none. A rule may be added for any other
# logical axis that a parameter has.
RULE_DEFAULTS: dict[str, tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "classes": ("tensor",),
    "head_dim": None,
    "qkv": None,
    "layers": None,
    "patch": None,
    "tokens": ("sequence",),
    "channels": None,
}


def _is_rule(x: Any) -> bool:
    axes = (x,) if isinstance(x, str) else x
    if not isinstance(axes, tuple | list) or any(axis not in AXES for axis in axes):
        return x is None
    return len(set(axes)) == len(axes)


RULE = ranges.Range(f"None, one of {AXES} or a tuple of several of them", _is_rule)
MESH_SIZE = ranges.Range(
    "a whole number, 1 or more, or -1 (the rest)",
    lambda x: ranges.whole(-1).fits(x) and x != 0,
)


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices of all processes, or of those given.

    Args:
      sizes: devices along each of `AXES`; one of them may be -1 for "the rest".
      devices: what to make it of; None: all there are.

    Raises:
      UserError: a size is none, or they do not multiply to the number of devices.
    """
    ranges.check(sizes, dict.fromkeys(AXES, MESH_SIZE), "mesh.")
    shape = [sizes[axis] for axis in AXES]
    count = jax.device_count() if devices is None else len(devices)
    given = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape))
    if shape.count(-1) > 1:
        raise UserError(f"mesh {given}: expected at most one -1 (the rest)")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and count % known == 0:
        shape[shape.index(-1)] = count // known
    if math.prod(shape) != count:
        raise UserError(
            f"mesh {given} does not make use of exactly the {count} devices there are; "
            f"set one of config.mesh.{{{','.join(AXES)}}} to -1 and let the others divide {count}"
        )
    arranged = arrange(tuple(shape), jax.devices() if devices is None else devices)
    # Linen's logical constraints need axes of type Auto, which is not the default.
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices in the shape of a mesh, neighbours along the last axes close together.

    TPU slices are connected by slow links. Where there are several, they lie along `data`, which
    needs one sum of gradients a step; all that is exchanged layer by layer stays within a slice.

    Args:
      shape: sizes along `AXES`.
      devices: as many.

    Raises:
      UserError: the number of slices does not divide the size of `data`.
    """
    slices = number_of_slices(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices:
        raise UserError(
            f"config.mesh.data={shape[0]} has to be a multiple of {slices}, the number of TPU "
            "slices: only the data axis goes over the slow links between them"
        )
    within = (shape[0] // slices, *shape[1:])
    between = (slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )


def number_of_slices(devices: Iterable[Any]) -> int:
    """Returns of how many TPU slices devices are; 1 where they are no TPUs."""
    tpus = [device for device in devices if device.platform == "tpu"]
    return len({getattr(device, "slice_index", 0) for device in tpus}) or 1


def make_rules(table: Mapping[str, Any]) -> Rules:
    """Returns `config.sharding_rules` with every entry as a tuple of mesh axes.

    Raises:
      UserError: an entry names something that is not a mesh axis, or one twice.
    """
    ranges.check(table, dict.fromkeys(table, RULE), "sharding_rules.")
    return {
        name: (axes,) if isinstance(axes, str) else tuple(axes or ())
        for name, axes in table.items()
    }


def check_names(rules: Rules, *trees: tuple[Any, Any]) -> None:
    """Looks for rules of logical axes that there are not.

    Args:
      rules: mesh axes of each logical name.
      *trees: pairs of arrays (or `jax.ShapeDtypeStruct`s) and their logical names.

    Raises:
      UserError: a name is neither one of `RULE_DEFAULTS` nor that of an axis of an array.
    """
    known = set(RULE_DEFAULTS)
    for shapes, axes in trees:
        for names in jax.tree.structure(shapes).flatten_up_to(axes):
            known.update(name for name in names or () if name is not None)
    for name in rules:
        if name not in known:
            raise UserError(f"sharding_rules.{name}: {naming.unknown('logical axis', name, known)}")


def partition(
    shape: tuple[int, ...], names: tuple[str | None, ...], rules: Rules, mesh: Mesh
) -> PartitionSpec:
    """Returns how an array is split.

    A mesh axis serves the first dimension that asks for it, once, and only where the number of
    devices along it divides what is left of that dimension; otherwise the dimension stays whole.

    Args:
      shape: of the array.
      names: logical name, or None, of each dimension.
      rules: mesh axes of each logical name.
      mesh: gives the sizes of the axes.

    Raises:
      UserError: the number of names is not the number of dimensions, or a name is not in `rules`.
    """
    if len(names) != len(shape):
        raise UserError(f"logical axes {names} do not fit an array of shape {shape}")
    used: set[str] = set()
    spec = []
    for size, name in zip(shape, names):
        taken = []
        for axis in _mesh_axes(name, rules):
            if axis not in used and size % (mesh.shape[axis] * _product(mesh, taken)) == 0:
                taken.append(axis)
        used.update(taken)
        spec.append(tuple(taken) if len(taken) > 1 else taken[0] if taken else None)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def _mesh_axes(name: str | None, rules: Rules) -> tuple[str, ...]:
    if name is None:
        return ()
    if name not in rules:
        raise UserError(
            f"logical axis {name!r} of a parameter has no rule; set sharding_rules.{name} to the "
            f"mesh axes it is split over, of {AXES}, or to None"
        )
    return rules[name]


def _product(mesh: Mesh, axes: list[str] | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def param_shardings(shapes: Any, axes: Any, rules: Rules, mesh: Mesh) -> Any:
    """Returns the sharding of every leaf of a tree of parameters.

    A vector of the width (a bias, the scale of a norm) stays whole: what a device would save by
    holding a part of it is not worth an exchange before each use.

    Args:
      shapes: tree of arrays or `jax.ShapeDtypeStruct`.
      axes: tree of the same structure, with a tuple of logical names in the place of each array
        (None: not split).
      rules: mesh axes of each logical name.
      mesh: the mesh.
    """
    leaves, tree = jax.tree.flatten(shapes)
    shardings = []
    for leaf, names in zip(leaves, tree.flatten_up_to(axes)):
        names = (None,) * len(leaf.shape) if names is None else names
        if _is_vector(leaf.shape, names):
            names = tuple(None if name == "embed" else name for name in names)
        shardings.append(NamedSharding(mesh, partition(leaf.shape, names, rules, mesh)))
    return tree.unflatten(shardings)


def _is_vector(shape: tuple[int, ...], names: tuple[str | None, ...]) -> bool:
    """Whether all sizes are 1 but one, that of layers stacked in a scan aside."""
    return sum(size > 1 for size, name in zip(shape, names) if name != "layers") == 1


def place(arrays: Any, axes: Any, rules: Rules, mesh: Mesh) -> Any:
    """Returns a tree of NumPy arrays on the devices, each device holding its part.

    Args:
      arrays: the same on every process.
      axes: see `param_shardings`.
      rules: mesh axes of each logical name.
      mesh: the mesh.
    """
    return jax.tree.map(
        lambda x, to: jax.make_array_from_callback(x.shape, to, lambda index: x[index]),
        arrays,
        param_shardings(arrays, axes, rules, mesh),
    )


def shardings_like_params(shapes: Any, param_shapes: Any, shardings: Any, mesh: Mesh) -> Any:
    """Returns shardings for a tree that holds parameter-like leaves, such as an optimizer state.

    A leaf belongs to the parameter whose path its own path ends with. It is split as that
    parameter is where their shapes are equal, as what remains of it where the leaf lacks one of its
    dimensions (Adafactor's row and column moments), and not at all otherwise (counters).

    Args:
      shapes: the tree to place, of arrays or `jax.ShapeDtypeStruct`.
      param_shapes: the parameters.
      shardings: the parameters' shardings.
      mesh: the mesh.
    """
    params = {
        path: (leaf.shape, sharding.spec)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(param_shapes), jax.tree.leaves(shardings)
        )
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        owner = next((params[path[i:]] for i in range(len(path)) if path[i:] in params), None)
        spec = _spec_of_part(leaf.shape, *owner) if owner else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes)


def _spec_of_part(
    shape: tuple[int, ...], param_shape: tuple[int, ...], spec: PartitionSpec
) -> PartitionSpec:
    """Returns the split of an array that is shaped like a parameter, or like one reduced."""
    if shape == param_shape:
        return spec
    whole = tuple(spec) + (None,) * (len(param_shape) - len(spec))
    for axis in range(len(param_shape)):
        if shape == param_shape[:axis] + param_shape[axis + 1 :]:
            return PartitionSpec(*whole[:axis], *whole[axis + 1 :])
    return PartitionSpec()


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"] or None))


def one_a_device(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array with one element for each device."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def batch_shards(mesh: Mesh, rules: Rules) -> int:
    """Returns into how many parts a batch is split."""
    return _product(mesh, rules["batch"])


def activation_rules(
    rules: Rules, shapes: Any, axes: Any, mesh: Mesh
) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
    """Returns the rules for activations, in the form that Flax takes.

    The named dimensions of activations are those of the parameters: a rule is left out where it
    does not divide all of them (three heads over two devices). Tokens alone may be split unevenly,
    197 of them over four devices: the compiler pads them.

    Args:
      rules: mesh axes of each logical name.
      shapes: the parameters.
      axes: their logical names.
      mesh: the mesh.
    """
    sizes: dict[str, set[int]] = {}
    leaves, tree = jax.tree.flatten(shapes)
    for leaf, names in zip(leaves, tree.flatten_up_to(axes)):
        for size, name in zip(leaf.shape, names or ()):
            sizes.setdefault(name, set()).add(size)

    def divides(name: str) -> bool:
        shards = _product(mesh, rules[name])
        return name == "tokens" or all(size % shards == 0 for size in sizes.get(name, ()))

    ordered = sorted(rules, key=lambda name: name != "batch")  # the first rule wins a mesh axis
    return tuple((name, rules[name] if rules[name] and divides(name) else None) for name in ordered)


@contextlib.contextmanager
def activate(
    mesh: Mesh, rules: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
) -> Iterator[None]:
    """Within it, `mesh` is the current one and `nn.with_logical_constraint` obeys `rules`."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield
