"""What a model's outputs are called, in the configurations of other libraries.

| library | key | |
|---|---|---|
| Transformers | `id2label` | an object; "LABEL_0", "LABEL_1", ... says that nobody knows |
| timm | `label_names` | a list or an object; in the configuration, or in its `pretrained_cfg` |

timm's models of ImageNet do not hold the names: the tag of their weights says which part of it they
were trained on last, and timm has lists of its classes among its files.
"""

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Source
from vit_jax.convert.layouts.transformers_files import labels
from vit_jax.convert.settings import Settings
from vit_jax.ranges import Range

Names = tuple[str, ...]
BY_INDEX = Range(
    "the names of classes by their number, as text",
    lambda x: isinstance(x, Mapping) and all(isinstance(name, str) for name in x.values()),
)
NAMES = ranges.or_none(ranges.either(ranges.several(ranges.TEXT), BY_INDEX))
PLACEHOLDER = re.compile(r"LABEL_\d+")
# The last part of ImageNet in a tag such as "augreg_in21k_ft_in1k", and the list that timm has for
# so many classes.
PART = re.compile(r"in\d+k")
LISTS = {
    ("in1k", 1000): "imagenet_synsets.txt",
    ("in12k", 11821): "imagenet12k_synsets.txt",
    ("in21k", 21841): "imagenet22k_synsets.txt",
    ("in22k", 21841): "imagenet22k_synsets.txt",
    ("in21k", 21843): "imagenet21k_goog_synsets.txt",
}
LEMMAS = "imagenet_synset_to_lemma.txt"


def read(source: Source, count: int) -> Names | None:
    """What a source calls its classes, in the order of the model's outputs; None if it does not.

    Args:
        source: see `convert.source.open_source`.
        count: outputs of the model; 0 for one without a head.

    Raises:
        UserError: a value that is none; names the file and the key.

    Warns:
        UserWarning: it has names, and not one for each output.
    """
    if source.config is None or not count:
        return None
    config = source.settings()
    if "model_type" in config:
        return _named(config, "id2label", count)
    if "architecture" not in config:
        return None
    inner = config.part("pretrained_cfg")
    found = [_named(part, "label_names", count) for part in (config, inner)]
    return found[0] or found[1] or _of_imagenet(inner, count)


def _named(settings: Settings, key: str, count: int) -> Names | None:
    """The names under `key`, if they are names and one for each class."""
    found = settings.get(key, NAMES, None)
    if found is None:
        return None
    if not isinstance(found, Mapping):
        found = {str(index): name for index, name in enumerate(found)}
    if found and all(PLACEHOLDER.fullmatch(name) for name in found.values()):
        return None
    if set(found) != {str(index) for index in range(count)}:
        warnings.warn(
            f"{settings.prefix}{key} in {settings.file} has {len(found)} names and not one for "
            f"each of the model's {count} outputs, 0 to {count - 1}: they are not taken",
            stacklevel=2,
        )
        return None
    return tuple(found[str(index)] for index in range(count))


def _of_imagenet(pretrained: Settings, count: int) -> Names | None:
    """What timm calls the classes of ImageNet; None without timm, or where no tag says so."""
    tag = pretrained.values.get("tag")
    parts = PART.findall(tag) if isinstance(tag, str) else []
    name = LISTS.get((parts[-1], count)) if parts else None
    spec = importlib.util.find_spec("timm")
    if name is None or spec is None or spec.origin is None:
        return None
    # Read as files: importing timm would load PyTorch.
    folder = Path(spec.origin).parent / "data" / "_info"
    if not (folder / name).is_file() or not (folder / LEMMAS).is_file():
        return None
    rows = (folder / LEMMAS).read_text(encoding="utf-8").splitlines()
    lemmas = dict(row.split("\t", 1) for row in rows)
    synsets = (folder / name).read_text(encoding="utf-8").split()
    return tuple(lemmas[synset] for synset in synsets) if len(synsets) == count else None


def written(config: Json, names: Sequence[str] | None) -> dict[str, Any]:
    """A configuration with the names that are known, where its library has a place for them."""
    if names is None:
        return dict(config)
    if "id2label" in config:
        return {**config, **labels(names)}
    if "architecture" in config:
        return {**config, "label_names": list(names)}
    return dict(config)
