"""A user's own checkpoint, by their own code, with their own names: a mapping file describes it.

The file is JSON (see `own_json`), or Python that defines

    model()          -> the module of this library that checkpoints are of
    table(module)    -> its `rules.Table`, made of `rules.same`, `stacked`, `joined`, ...
    PREPROCESSING    optional: `vit_jax.models.Preprocessing`, how images are prepared
    build()          optional: the user's own PyTorch module, in evaluation mode
    blocks(theirs)   optional: the blocks of that module, in order

`build` and `blocks` let `vit-jax validate` compare with the user's own forward pass. A Python file
is run, as any program is; only the one that the user names, never one from a source of weights.
"""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vit_jax.convert import own_json, params
from vit_jax.convert.layouts.base import Layout
from vit_jax.convert.mapping import expected_shapes
from vit_jax.convert.rules import Axes, Rule, Shape, Table
from vit_jax.convert.source import Identity
from vit_jax.errors import MissingFileError, UserError
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.registry import Preprocessing
from vit_jax.naming import unknown

if TYPE_CHECKING:
    import torch

UNCHANGED = "... -> ..."  # the pattern of a rule without one
# Fields in which a model that is written may differ from what the mapping file says: they show in
# the shapes of tensors, so that nobody can load it into a PyTorch module of other ones.
SHOWN = ("num_classes", "img_size", "patch_size")


@dataclasses.dataclass(frozen=True)
class Own:
    """What a mapping file says.

    Attributes:
        path: the file.
        module: the model that checkpoints are of.
        make_table: the mapping table of a module, not checked yet.
        name: the model's registered name, where the file gives one.
        preprocessing: how images are prepared.
        build: makes the user's PyTorch module, or None.
        blocks: the blocks of that module in order, or None.
    """

    path: Path
    module: PlainModule
    make_table: Callable[[Any], Table]
    name: str | None = None
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    build: Callable[[], Any] | None = None
    blocks: Callable[[Any], Sequence[Any]] | None = None

    def table(self, module: PlainModule) -> Table:
        """The mapping table of `module`, checked.

        Raises:
            UserError: it does not fill each parameter exactly once, or a rule does not fit.
        """
        try:
            table = self.make_table(module)
            check_table(table, module)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        return table


def read(path: str | os.PathLike[str]) -> Own:
    """Reads a mapping file; a Python file is run.

    Args:
        path: a `.json` or `.py` file on this machine.

    Raises:
        UserError: there is no such file, or it is no mapping.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(f"no mapping at {path}: give the path of a .json or .py file")
    if path.suffix == ".json":
        return Own(path, **own_json.read(path))
    if path.suffix == ".py":
        return _run(path)
    raise UserError(f"{path} is no mapping: expected a file whose name ends in .json or .py")


def _run(path: Path) -> Own:
    with _importable(path.absolute().parent):
        spec = importlib.util.spec_from_file_location(f"vit_jax_mapping_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        file = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(file)
    missing = [name for name in ("model", "table") if not callable(getattr(file, name, None))]
    if missing:
        raise UserError(f"{path} is no mapping: it has no function {missing[0]}()")
    module = file.model()
    if not isinstance(module, PlainModule):
        raise UserError(
            f"model() of {path} returned {type(module).__name__}, expected a module of this "
            "library, as vit_jax.create_model makes them"
        )
    return Own(
        path,
        module,
        file.table,
        preprocessing=_preprocessing(file),
        build=getattr(file, "build", None),
        blocks=getattr(file, "blocks", None),
    )


def _preprocessing(file: ModuleType) -> Preprocessing:
    found = getattr(file, "PREPROCESSING", Preprocessing())
    if not isinstance(found, Preprocessing):
        raise UserError(
            f"PREPROCESSING of {file.__file__} is {type(found).__name__}, expected "
            "vit_jax.models.Preprocessing(...)"
        )
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies in `folder` can be imported, as for a program that is started from there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def identity(path: str | os.PathLike[str], model: str | PlainModule | None = None) -> Identity:
    """Which model a source is of, as the mapping file `path` says.

    Args:
        path: see `read`.
        model: must be None: the file says it.

    Raises:
        UserError: see `read`; or a model is given as well.
    """
    if model is not None:
        raise UserError(
            f"model {model!r} and the mapping {path} are both given; the mapping says which model "
            "it is: leave the model out"
        )
    own = read(path)
    return Identity(layout(own), own.name, _fields(own.module), own.preprocessing)


def layout(own: Own) -> Layout:
    """The mapping file as a layout, to read and to write."""
    return Layout(
        name="own",
        family=own.path.stem,
        module=type(own.module),
        claims=lambda source: True,
        read=lambda source: (_fields(own.module), True),
        table=lambda module, source: own.table(module),
        expresses=lambda module: True,
        write_table=own.table,
        preprocessing=lambda source: own.preprocessing,
        usual=own.preprocessing,
        write_files=lambda module, prep: {},
    )


def writing_layout(path: str | os.PathLike[str], module: PlainModule) -> Layout:
    """The mapping file `path` as a layout to write `module` in.

    Raises:
        UserError: see `read`; or it describes a model of another class.
    """
    own = read(path)
    if type(own.module) is not type(module):
        raise UserError(
            f"{path} describes a {type(own.module).__name__}, the model is a "
            f"{type(module).__name__}"
        )
    shown = {field: getattr(module, field) for field in SHOWN}
    return layout(dataclasses.replace(own, module=own.module.clone(**shown)))


def _fields(module: PlainModule) -> dict[str, Any]:
    return {field: getattr(module, field) for field in module.field_ranges()}


def torch_module(own: Own) -> "torch.nn.Module":
    """The user's own PyTorch module, in evaluation mode; its weights are those it is built with.

    It takes images `(b, channels, height, width)` and returns what the head does, and loads the
    checkpoint by `load_state_dict`.

    Raises:
        UserError: the mapping file defines no `build`.
    """
    if own.build is None:
        raise UserError(
            f"{own.path} has no function build() that makes your PyTorch module: there is nothing "
            "to compare with"
        )
    return own.build().eval()


def check_table(table: Table, module: PlainModule) -> None:
    """Raises UserError unless `table` fills each parameter of `module` once, without a doubt."""
    if not isinstance(table, Table):
        kind = type(table).__name__
        raise UserError(f"table() returned {kind}, expected vit_jax.convert.rules.Table(...)")
    leaves = params.by_path(params.shapes_of(module))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    for rule in table.rules:
        _check_rule(rule, shapes)
    expected_shapes(table, shapes)


def _check_rule(rule: Rule, shapes: Mapping[str, Shape]) -> None:
    for path, pattern in zip(rule.targets, rule.patterns):
        if path not in shapes:
            raise UserError(unknown("parameter", path, shapes))
        try:
            Axes(pattern, shapes[path])
        except UserError as error:
            raise UserError(f"{path!r} from {rule.sources[0]!r}: {error}") from error
        long = [size for size in shapes[path] if size > 1]
        if pattern == UNCHANGED and len(long) > len(set(long)):
            raise UserError(
                f"{path!r} from {rule.sources[0]!r}: axes of the parameter {shapes[path]} have the "
                "same length, so that a transposed tensor would go unnoticed: give a pattern, as "
                '"o i -> i o" for the weight of a torch.nn.Linear'
            )
