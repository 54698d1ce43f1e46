"""What a source that does not fit is like: the registered model with most of its tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.convert import mapping, params
from vit_jax.convert.errors import listed
from vit_jax.convert.layouts import Layout, Source
from vit_jax.convert.mapping import Comparison, MismatchError
from vit_jax.convert.rules import Axes, Table
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.vit import pair

PATCH = "patch_embed/kernel"


def mismatch(
    source: Source,
    layout: Layout,
    cause: str,
    model: tuple[str, Mapping[str, Any]] | None = None,
) -> MismatchError:
    """The error of a source that has a layout's names and is none of its models.

    Args:
        source: the file or folder.
        layout: whose names it has.
        cause: what is wrong, as a sentence.
        model: what it was taken for, in words, and its hyper-parameters; None takes the registered
            model that is nearest.

    Returns:
        The error: the cause, how many tensors match, the first that do not, and what it may be.
    """
    near, lines, matching = nearest(source, layout), [cause], 0
    if model is None and near:
        model = repr(near[0]), registry.model_spec(near[0]).hyper_parameters
    if model is not None:
        found = _compare(source, layout, layout.module(**model[1]))
        matching = found.matching
        lines.append(f"beside {model[0]}: {found}")
    if near:
        lines.append(f"nearest by its tensors: {listed(near, 4)}")
    lines.append(
        "if it is of another family, or of code of your own, give a mapping table (--mapping)"
    )
    return MismatchError("\n  ".join(lines), matching)


def nearest(source: Source, layout: Layout) -> list[str]:
    """Registered models of a layout by whose names most of a source is explained; may be none.

    Names come first, as no model has to be built for them: what both have, as a share of what
    either has. Of those that tie, the ones whose patch embedding has the right shape.
    """
    found = sorted(_ordered(source, layout))
    return [name for order, name in found if order == found[0][0]]


def unexplained(source: Source, layout: Layout) -> list[str]:
    """Tensors that are none of the nearest model's, whatever their shapes."""
    near = nearest(source, layout)
    if not near:
        return list(source.tensors)
    table = layout.table(layout.module(**registry.model_spec(near[0]).hyper_parameters), source)
    known = {*table.sources, *(constant.source for constant in table.constants)}
    return [name for name in source.tensors if name not in known and not table.ignores(name)]


def _ordered(source: Source, layout: Layout) -> Iterator[tuple[tuple[float, bool], str]]:
    """Names, each behind what orders them: the less, the nearer."""
    for name in registry.list_models():
        spec = registry.model_spec(name)
        if spec.module is not layout.module:
            continue
        module = spec.module(**spec.hyper_parameters)
        try:
            table = layout.table(module, source)
        except UserError:  # the layout has no place for a part of the model
            continue
        wanted, given = set(table.sources), set(source.tensors)
        shared = len(wanted & given) / len(wanted | given)
        if shared:
            yield (-shared, not _patch_fits(source, module, table)), name


def _patch_fits(source: Source, module: Any, table: Table) -> bool:
    """Whether the patch embedding, whose shape is known without building the model, is right."""
    [rule] = [rule for rule in table.rules if PATCH in rule.targets]
    target = (*pair(module.patch_size), module.in_chans, module.embed_dim)
    tensor = source.tensors.get(rule.sources[0])
    return tensor is not None and tensor.shape == Axes(rule.patterns[0], target).source


def _compare(source: Source, layout: Layout, module: PlainModule) -> Comparison:
    leaves = params.by_path(params.shapes_of(module))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    return mapping.compare(source.tensors, layout.table(module, source), shapes)
