"""timm's `config.json`: a name, the arguments that differ from the name's, the preprocessing."""

from collections.abc import Mapping
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import RUNTIME, Json, Source
from vit_jax.convert.settings import Settings, read_preprocessing
from vit_jax.models import registry
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.registry import IMAGENET, ModelSpec, Preprocessing
from vit_jax.models.vit import pair
from vit_jax.ranges import Range

POOLS = {"": "none"}  # timm's names that are others here
# Names whose patches do not divide the image: our name for the model, and timm's size.
UNCOVERED = {
    "vit_so400m_patch14_siglip_384": ("vit_so400m_patch14_siglip_378", {"img_size": 384}),
    "vit_so400m_patch14_siglip_gap_384": ("vit_so400m_patch14_siglip_gap_378", {"img_size": 384}),
}


# Arguments of how weights are drawn, which nothing that is computed with stored ones depends on.
NOT_COMPUTED: dict[str, Range] = {"weight_init": ranges.TEXT, "fix_init": ranges.TRUE_OR_FALSE}
RATES = frozenset(name for name in RUNTIME if name.endswith("_rate"))


def architecture_of(config: Json) -> str:
    """The name of timm's model without the tag of its weights; "" where there is none."""
    return str(config.get("architecture", "")).split(".")[0]


def unregistered(source: Source) -> str | None:
    """The architecture that a configuration names, where this library has none of that name."""
    if source.config is None or "architecture" not in source.config:
        return None
    given = architecture_of(source.config)
    return None if UNCOVERED.get(given, (given,))[0] in registry.list_models() else given


def _named(config: Settings) -> tuple[str, Json]:
    """Our name for the architecture of a configuration, and the arguments that timm's implies."""
    given = architecture_of({"architecture": config.get("architecture", ranges.TEXT)})
    return UNCOVERED.get(given, (given, {}))


def argument_ranges(module: type[PlainModule], names: frozenset[str]) -> dict[str, Range]:
    """What the arguments `names` may be, and those that all of timm's models have."""
    fields = module.field_ranges()
    pool = ranges.either(ranges.one_of(POOLS), fields["global_pool"])
    known = {name: fields[name] for name in names | (RATES & set(fields))}
    return {**known, "global_pool": pool, **NOT_COMPUTED}


def read_arguments(
    source: Source,
    module: type[PlainModule],
    names: frozenset[str],
    more: Mapping[str, Range] | None = None,
) -> tuple[ModelSpec | None, dict[str, Any]]:
    """The spec of the name that a configuration gives, and the arguments that it gives beside it.

    The number of classes is not among them: the head has it.

    Args:
        source: with a configuration.
        module: of the layout.
        names: the arguments that mean the same here.
        more: what others may be, by name.

    Returns:
        The spec, None for a name that is not registered; and the arguments.

    Raises:
        UserError: an unknown argument, or a value that is none; names the file.
    """
    config = source.settings()
    name, found = _named(config)
    spec = None if unregistered(source) else registry.model_spec(name)
    arguments = config.part("model_args")
    allowed = {**argument_ranges(module, names), **(more or {})}
    strange = sorted(set(arguments.values) - set(allowed))
    if strange:
        raise config.error(
            "model_args",
            f"{strange} of {name} this library does not have; it knows {sorted(allowed)}",
        )
    found = {**found, **{key: arguments.get(key, allowed[key]) for key in arguments.values}}
    if "global_pool" in config:
        found["global_pool"] = config.get("global_pool", allowed["global_pool"])
    if "global_pool" in found:
        found["global_pool"] = POOLS.get(found["global_pool"], found["global_pool"])
    for key in ("num_classes", *NOT_COMPUTED):
        found.pop(key, None)
    return spec, {key: hashable(value) for key, value in found.items()}


def assumed(source: Source, names: frozenset[str]) -> Json:
    """What stands for the arguments that a configuration leaves out: the choices of its name."""
    if source.config is None or unregistered(source):
        return {}
    config = source.settings()
    spec = registry.model_spec(_named(config)[0])
    module = spec.module(**spec.hyper_parameters)
    absent = sorted(names - {"num_classes", *config.part("model_args").values})
    return {f"model_args.{name}": getattr(module, name) for name in absent}


def read_timm_preprocessing(source: Source) -> Preprocessing | None:
    """What the configuration says, or None; timm's older files have no "pretrained_cfg" in it.

    Raises:
        UserError: a value that is none, or that this library cannot use; names the file.
    """
    if source.config is None:
        return None
    config = source.settings()
    nested = "pretrained_cfg" in config
    return read_preprocessing(config.part("pretrained_cfg") if nested else config, IMAGENET)


def pool_name(module: PlainModule) -> str:
    """The pooling of a module, by timm's name."""
    theirs = {ours: name for name, ours in POOLS.items()}
    return theirs.get(module.global_pool, module.global_pool)


def write_pretrained(
    module: PlainModule, prep: Preprocessing, first_conv: str, classifier: str, **more: Any
) -> dict[str, Any]:
    """The "pretrained_cfg" of a configuration: preprocessing, and where the ends of the model are.

    Args:
        module: what is written.
        prep: how its images are prepared.
        first_conv: timm's name of what sees the images.
        classifier: timm's name of the head.
        **more: what only some models have.
    """
    return {
        "input_size": [module.in_chans, *pair(module.img_size)],
        "pool_size": None,
        "interpolation": prep.interpolation,
        "crop_pct": prep.crop_pct,
        "crop_mode": prep.crop_mode,
        "mean": list(prep.mean),
        "std": list(prep.std),
        "num_classes": module.num_classes,
        "first_conv": first_conv,
        "classifier": classifier,
        **more,
    }


def hashable(value: Any) -> Any:
    """The value with tuples in the place of lists, as modules have them."""
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value
