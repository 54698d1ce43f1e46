"""A configuration that starts from pretrained weights: what they say of themselves goes into it.

`config.init_from` takes weights of the very network that `config.model` describes, prepared images
included; `start_from` writes that description.
"""

import dataclasses
import os
from typing import Any

from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts.base import RUNTIME, differing
from vit_jax.errors import UserError
from vit_jax.models import MaskedAutoencoder, PlainModule, registry
from vit_jax.training.config import open_and_lock
from vit_jax.training.trained import open_model

# What a recipe says of a model whatever weights it starts from; the classes are the data's.
RECIPE_SAYS = RUNTIME | {"num_classes"}


def start_from(
    config: ConfigDict, source: str | os.PathLike[str], model: str | PlainModule | None = None
) -> ConfigDict:
    """Returns the configuration, starting from pretrained weights, with a new head.

        config = vit_jax.load_config("configs/image_folder.py", ["data.source=folder:flowers"])
        config = vit_jax.start_from(config, "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k")
        vit_jax.train(config, "runs/flowers")

    `config.model` becomes the network of the weights; how it runs (`dtype`, `scan`, drop rates,
    ...) stays as the recipe has it. Images are normalised, resized and cropped for evaluation as
    the weights are used to.

    Args:
      config: a recipe; stays as it is.
      source: see `vit_jax.open_model`.
      model: see `vit_jax.open_model`. Of weights that do not say what they are, `init_from` finds
        the sizes of a registered name.

    Raises:
      UserError: see `vit_jax.open_model`; or the weights are of a masked autoencoder, which has
        neither pooling nor head.
    """
    found = open_model(source, model, report=lambda text: None)
    if isinstance(found.module, MaskedAutoencoder):
        raise UserError(
            f"{os.fspath(source)} holds a masked autoencoder, which neither pools nor classifies: "
            "say in config.model how that is to be, as configs/mae_b16_finetune.py does"
        )
    config = open_and_lock(config.copy_and_resolve_references())
    kept = {key: value for key, value in config.model.items() if key in RECIPE_SAYS}
    config.model = ConfigDict({**_described(found), **kept})
    config.init_from = os.fspath(source)
    config.init_changes.update(dict.fromkeys(config.init_changes, ()))
    config.init_changes.drawn = _heads(found.module)
    prep = found.preprocessing.for_channels(found.module.in_chans)
    config.data.mean, config.data.std = tuple(prep.mean), tuple(prep.std)
    config.data.interpolation = prep.interpolation
    config.data.eval_transform = data.eval_transform(prep)
    return config


def _described(model: Model) -> dict[str, Any]:
    """`config.model` of a module: a name, and what differs from it."""
    name = model.name or _nearest(model.module)
    return {"name": name, **{key: value for key, (value, _) in _apart(model.module, name).items()}}


def _nearest(module: PlainModule) -> str:
    """The registered name of the same class from which a module differs least."""
    return min(registry.names_of(module), key=lambda name: len(_apart(module, name)))


def _apart(module: PlainModule, name: str) -> dict[str, tuple[Any, Any]]:
    """Hyper-parameters of a module that are not those of a name, with both values."""
    spec = registry.model_spec(name)
    fields = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    return differing(module, spec.module(**spec.hyper_parameters), sorted(fields - RECIPE_SAYS))


def _heads(module: PlainModule) -> tuple[str, ...]:
    return ("head/*", "head_dist/*") if getattr(module, "dist_token", False) else ("head/*",)
