"""What a layout is: one way in which a family's weights lie on disks."""

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_jax.convert.mapping import MismatchError
from vit_jax.convert.rules import Shape, Table
from vit_jax.convert.settings import Settings
from vit_jax.convert.tensors import LazyTensor
from vit_jax.errors import UserError
from vit_jax.models.layers.position import TABLES
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.registry import Preprocessing
from vit_jax.models.vit import pair

Json = Mapping[str, Any]

# Fields of a module that change how it runs and not what it computes at evaluation, for images of
# its own size.
RUNTIME = frozenset(
    [
        "drop_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "drop_path_rate",
        "drop_path_ramp",
        "weight_init",
        "head_bias_init",
        "scan",
        "remat",
        "attn_backend",
        "dtype",
        "param_dtype",
        "dynamic_img_size",
        "pos_resample",
    ]
)
# Fields in which libraries differ about one and the same architecture; they leave no trace in the
# shapes, and a source that tells them is right, whatever its name.
DIALECT = frozenset(["act_layer", "norm_eps"])


class Shapes(dict[str, Shape]):
    """Shapes of tensors by name; what is looked for and not there is a `MismatchError`.

    Which is how layouts read files: that a few names are a layout's own says little about the rest.
    """

    def __missing__(self, name: str) -> Shape:
        raise MismatchError(f"there is no {name!r} in it")

    def of(self, name: str, axes: int) -> Shape:
        """The shape of a tensor that has so many axes."""
        shape = self[name]
        if len(shape) != axes:
            raise MismatchError(f"{name!r} is {shape} in it, expected {axes} axes")
        return shape

    def count(self, pattern: str) -> int:
        """How many blocks there are, whose numbers are the first group of a regular expression."""
        found = {int(m[1]): m[0] for name in self if (m := re.match(pattern, name))}
        if not found:
            raise MismatchError(f"there is no name like {pattern!r} in it")
        if len(found) <= max(found):
            absent = next(i for i in range(len(found) + 1) if i not in found)
            raise MismatchError(f"there is {found[max(found)]!r} in it, and no number {absent}")
        return len(found)


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint as it was found.

    Attributes:
        path: the file or folder.
        tensors: what it holds, not read yet.
        config: `config.json` beside the weights, or None.
        processor: `preprocessor_config.json` beside them, or None.
        config_name: the name of the file that `config` is.
    """

    path: Path
    tensors: Mapping[str, LazyTensor]
    config: Json | None = None
    processor: Json | None = None
    config_name: str = "config.json"

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.path if self.path.is_dir() else self.path.parent

    def settings(self, defaults: Json | None = None) -> Settings:
        """The configuration, empty where there is none; `defaults` for what it leaves out."""
        return Settings(self.config or {}, self.folder / self.config_name, defaults)

    def processing(self) -> Settings | None:
        """The configuration of preprocessing, or None where there is none."""
        if self.processor is None:
            return None
        return Settings(self.processor, self.folder / "preprocessor_config.json")

    def shapes(self, prefix: str = "") -> Shapes:
        """Shapes of the tensors whose names begin with `prefix`, by the rest of their names."""
        found = {name: x.shape for name, x in self.tensors.items() if name.startswith(prefix)}
        return Shapes({name.removeprefix(prefix): shape for name, shape in found.items()})


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a family's weights are stored.

    Attributes:
        name: what users call it, as "timm" or "transformers".
        family: which models it is for, as "vit".
        module: the class of module that it holds.
        claims: whether a source is in this layout, from its config or its tensors' names.
        read: hyper-parameters that the source tells, and whether they are all that there are to
            know (False: others, such as the number of heads, leave no trace in the file). Raises
            `MismatchError` where a tensor that tells one of them is not there, and `UserError` for
            a configuration that is damaged.
        table: the mapping table of a module for a source.
        expresses: whether this is the layout of its name to write a module in.
        write_table: the mapping table of a module in the layout's standard form.
        preprocessing: how the source says its images are prepared, or None.
        usual: how images are prepared for models of this layout where nobody says otherwise.
        write_files: the JSON files that belong beside the weights, by name.
        assumed: defaults that count because the configuration leaves them out, by their keys.
    """

    name: str
    family: str
    module: type[PlainModule]
    claims: Callable[[Source], bool]
    read: Callable[[Source], tuple[dict[str, Any], bool]]
    table: Callable[[Any, Source], Table]
    expresses: Callable[[Any], bool]
    write_table: Callable[[Any], Table]
    preprocessing: Callable[[Source], Preprocessing | None]
    usual: Preprocessing
    write_files: Callable[[Any, Preprocessing], dict[str, Json]]
    assumed: Callable[[Source], Json] = lambda source: {}


def width_ratio(hidden: int, embed_dim: int) -> float:
    """The `mlp_ratio` for which `int(embed_dim * mlp_ratio)` is `hidden`."""
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim


def square(size: tuple[int, int] | int) -> int | tuple[int, int]:
    """One number for equal sides, a pair for others."""
    if isinstance(size, int):
        return size
    height, width = size
    return height if height == width else (height, width)


def whole_patches(img_size: Any, patch_size: Any) -> Any:
    """The part of an image that its patches cover, in pixels.

    Other libraries take images that patches do not divide, and never look at the rest on the right
    and at the bottom; the best known is SigLIP's of 384 pixels with patches of 14.

    Warns:
        UserWarning: it is not the whole image; says what to do.
    """
    sizes = list(zip(pair(img_size), pair(patch_size)))
    covered = tuple(side // patch * patch for side, patch in sizes)
    if covered != pair(img_size):
        warnings.warn(
            f"patches of {patch_size} do not divide images of {img_size}: the model is built for "
            f"{covered}, which is what it looks at. For the very same numbers resize pictures to "
            f"{img_size} and cut off the rest on the right and at the bottom",
            stacklevel=2,
        )
    return square(covered)


def differing(
    one: PlainModule, other: PlainModule, fields: Iterable[str] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Hyper-parameters by which two modules of a class are different networks.

    Args:
        one: a module.
        other: another.
        fields: the names to compare, None for all. Those in `RUNTIME` never are.

    Returns:
        Both values by name, where they are not the same and do not mean the same. A value that
        comes to something else because another one differs is not told: that other one is.
    """
    names = [f.name for f in dataclasses.fields(one)] if fields is None else fields
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in names}
    return {
        name: (a, b)
        for name, (a, b) in pairs.items()
        if name not in RUNTIME | {"parent", "name"}
        and a != b
        and _meaning(one, name) != _meaning(other, name)
    }


def _meaning(module: Any, field: str) -> Any:
    """What a hyper-parameter comes to in a module; equal for values that build the same."""
    value = getattr(module, field)
    if field in ("img_size", "patch_size"):
        return pair(value)
    if field == "mlp_ratio":
        return int(module.embed_dim * value)
    if field == "decoder_mlp_ratio":
        return module.decoder_hidden
    if field == "pos_embed":  # whether a table is trained changes nothing that is computed
        return "learn" if value in TABLES else value
    if field == "init_values":  # where training starts, not what is computed
        return value is None
    if field == "fc_norm":
        return module.norm_after_pool
    if field in ("no_embed_class", "no_embed_reg"):
        return module.pos_prefix_tokens
    if field == "head_bias":
        return bool(module.num_classes) and value
    return value


def check_expressed(module: PlainModule, layout: Layout, back: Mapping[str, Any]) -> None:
    """Raises UserError where a layout's files would not bring the same module back.

    Args:
        module: what is written.
        layout: the layout.
        back: the hyper-parameters that reading the written files gives.
    """
    found = differing(module, layout.module(**back))
    if found:
        text = ", ".join(f"{k}={a!r} (would be read as {b!r})" for k, (a, b) in found.items())
        raise UserError(
            f"the layout {layout.name!r} cannot say {text}: choose another format, or train and "
            "convert the model without"
        )
