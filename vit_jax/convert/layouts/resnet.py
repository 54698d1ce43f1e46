"""timm's layout of BiT's ResNets (`resnetv2_*_bit`).

timm builds them by name alone: it takes no argument for depth or width. So a ResNet of other sizes
than a name's can be read from timm's files and not be written for timm.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source, square
from vit_jax.convert.layouts.timm_config import (
    architecture_of,
    read_timm_preprocessing,
    unregistered,
    write_pretrained,
)
from vit_jax.convert.rules import Rule, Table, same
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.registry import Preprocessing
from vit_jax.models.resnet import STEMS, ResNetV2

CONV = "o i h w -> h w i o"
HEAD = "head.fc"
ARGUMENTS = {"in_chans", "num_classes"}  # of timm's functions, that tensors tell too


def resnet_table(module: ResNetV2) -> Table:
    """Every parameter of a ResNet and its name in timm's files."""
    rules = [same("stem.conv.weight", "conv_stem/kernel", CONV), *_norm("norm", "norm")]
    for name, _, _ in module.blocks():
        _, i, _, j = name.split("_")
        rules += _block(f"stages.{i}.blocks.{j}.", f"{name}/", project=j == "0")
    if module.num_classes:
        rules.append(same(f"{HEAD}.weight", "head/kernel", "o i 1 1 -> i o"))
        rules.append(same(f"{HEAD}.bias", "head/bias"))
    return Table(tuple(rules))


def _block(source: str, target: str, project: bool) -> Iterator[Rule]:
    for i in (1, 2, 3):
        yield from _norm(f"{source}norm{i}", f"{target}norm{i}")
        yield same(f"{source}conv{i}.weight", f"{target}conv{i}/kernel", CONV)
    if project:
        yield same(f"{source}downsample.conv.weight", f"{target}conv_shortcut/kernel", CONV)


def _norm(source: str, target: str) -> Iterator[Rule]:
    yield same(f"{source}.weight", f"{target}/scale")
    yield same(f"{source}.bias", f"{target}/bias")


def _claims(source: Source) -> bool:
    if source.config is not None and not unregistered(source):
        name = architecture_of(source.config)
        return name in registry.list_models() and registry.model_spec(name).module is ResNetV2
    # The others of timm's ResNetV2s have batch norms, deeper stems or blocks of two convolutions.
    names = source.tensors
    wanted = ("stem.conv.weight", "stages.0.blocks.0.norm3.weight")
    return all(name in names for name in wanted) and "norm.running_mean" not in names


def _read(source: Source) -> tuple[dict[str, Any], bool]:
    shapes = source.shapes()
    width, in_chans, kernel, _ = shapes.of("stem.conv.weight", 4)
    stages = range(shapes.count(r"stages\.(\d+)\."))
    head = f"{HEAD}.weight"
    found: dict[str, Any] = dict(
        width=width,
        in_chans=in_chans,
        layers=tuple(shapes.count(rf"stages\.{i}\.blocks\.(\d+)\.") for i in stages),
        stem=next((name for name, (size, *_) in STEMS.items() if size == kernel), "large"),
        num_classes=shapes.of(head, 4)[0] if head in shapes else 0,
    )
    if source.config is not None:
        config = source.settings()
        strange = sorted(set(config.part("model_args").values) - ARGUMENTS)
        if strange:
            raise config.error("model_args", f"{strange}; expected none but {sorted(ARGUMENTS)}")
        cfg = config.part("pretrained_cfg") if "pretrained_cfg" in config else config
        if "input_size" in cfg:
            size = cfg.get("input_size", ranges.several(ranges.whole(1), 3))
            found["img_size"] = square(tuple(size[1:]))
    return found, unregistered(source) is None


def _write_files(module: ResNetV2, prep: Preprocessing) -> dict[str, Json]:
    sizes = {"layers": tuple(module.layers), "width": module.width}
    names = [
        name
        for name in registry.list_models("resnetv2_*_bit")
        if registry.model_spec(name).hyper_parameters == sizes
    ]
    if not names or module.stem != "large":
        raise UserError(
            f"timm has no ResNet with layers={sizes['layers']}, width={module.width} and "
            f"stem={module.stem!r}: its names are {registry.list_models('resnetv2_*_bit')}; choose "
            "another format"
        )
    pretrained = write_pretrained(module, prep, "stem.conv", HEAD)
    config = {
        "architecture": names[0],
        "num_classes": module.num_classes,
        "num_features": module.features,
        "model_args": {"in_chans": module.in_chans},
        "pretrained_cfg": pretrained,
    }
    return {"config.json": config}


LAYOUTS = (
    Layout(
        name="timm",
        family="resnet",
        module=ResNetV2,
        claims=_claims,
        read=_read,
        table=lambda module, source: resnet_table(module),
        expresses=lambda module: True,
        write_table=resnet_table,
        preprocessing=read_timm_preprocessing,
        usual=dataclasses.replace(Preprocessing(), interpolation="bilinear", crop_pct=0.875),
        write_files=_write_files,
    ),
)
