"""Model names: what each stands for, how to find one, how to build one."""

import dataclasses
import fnmatch
from typing import Any

from vit_jax import naming, ranges
from vit_jax.errors import UserError
from vit_jax.models.partitioning import PlainModule

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CROP_MODES = ("center", "center_floor", "squash")
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a model's images are prepared; the size they come to is the module's `img_size`.

    Attributes:
        mean: subtracted from each channel, images in [0, 1].
        std: each channel is divided by it after that.
        interpolation: of resizing, "bicubic" or "bilinear".
        crop_pct: share of each side of the resized picture that the crop from its centre keeps at
            evaluation.
        crop_mode: how the picture is resized before: "center" (aspect ratio kept, so that the
            short side fits), "center_floor" (the same, with Transformers' rounding of the crop's
            place, see `vit_jax.data.transforms.CenterCrop`) or "squash" (to the exact size, aspect
            ratio lost).

    Raises:
        UserError: unknown crop_mode.
    """

    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    interpolation: str = "bicubic"
    crop_pct: float = 0.9
    crop_mode: str = "center"

    def __post_init__(self):
        if self.crop_mode not in CROP_MODES:
            raise UserError(naming.unknown("crop_mode", self.crop_mode, CROP_MODES))

    def for_channels(self, channels: int) -> "Preprocessing":
        """The same for images of so many channels, where all channels have the same statistics.

        Raises:
            UserError: they differ, and are of another number of channels.
        """
        if len(self.mean) == len(self.std) == channels:
            return self
        if len({*self.mean}) > 1 or len({*self.std}) > 1:
            raise UserError(
                f"mean {self.mean} and std {self.std} are not those of images with {channels} "
                "channels: give one number for each channel"
            )
        return dataclasses.replace(self, mean=self.mean[:1] * channels, std=self.std[:1] * channels)


# As most models of ImageNet-1k are evaluated: Inception's preprocessing with its statistics.
IMAGENET = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, crop_pct=0.875)
CLIP = Preprocessing(CLIP_MEAN, CLIP_STD, crop_pct=1.0)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A name's module class, its hyper-parameters, and its preprocessing."""

    module: type[PlainModule]
    hyper_parameters: dict[str, Any]
    preprocessing: Preprocessing


_MODELS: dict[str, ModelSpec] = {}


def register(
    name: str,
    module: type[PlainModule],
    preprocessing: Preprocessing = Preprocessing(),
    **hyper_parameters: Any,
) -> None:
    """Gives a model a name.

    Raises:
        UserError: the name is taken.
    """
    if name in _MODELS:
        raise UserError(f"model {name!r} is registered twice")
    _MODELS[name] = ModelSpec(module, hyper_parameters, preprocessing)


def list_models(pattern: str = "*") -> list[str]:
    """Names of models that match a shell pattern, such as "vit_base*", in alphabetical order."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_spec(name: str) -> ModelSpec:
    """What a name stands for.

    Raises:
        UserError: no such model; names the nearest.
    """
    if name not in _MODELS:
        raise UserError(f"{naming.unknown('model', name, _MODELS)} vit_jax.list_models() lists all")
    return _MODELS[name]


def names_of(module: PlainModule) -> list[str]:
    """Names that stand for modules of the same class, in alphabetical order."""
    return [name for name in list_models() if _MODELS[name].module is type(module)]


def module_classes() -> dict[str, type[PlainModule]]:
    """The classes of modules that names stand for, by their own name."""
    return {spec.module.__name__: spec.module for spec in _MODELS.values()}


def preprocessing(name: str) -> Preprocessing:
    """How images are prepared for the model `name`.

    Raises:
        UserError: no such model.
    """
    return model_spec(name).preprocessing


def field_ranges(name: str) -> dict[str, ranges.Range]:
    """What each hyper-parameter of the model `name` may be, by itself.

    Raises:
        UserError: no such model.
    """
    return model_spec(name).module.field_ranges()


def create_model(name: str, **overrides: Any) -> PlainModule:
    """Builds a Flax module by name.

    Args:
        name: one of `list_models()`, as "vit_base_patch16_224".
        **overrides: hyper-parameters that differ from the name's, as `num_classes=10` or
            `img_size=(192, 256)`.

    Returns:
        The module; `module.init(key, images)` draws its parameters.

    Raises:
        UserError: unknown name or hyper-parameter (names the nearest), or values that
            contradict each other.
    """
    spec = model_spec(name)
    allowed = field_ranges(name)
    naming.check_known(f"hyper-parameter of {spec.module.__name__}", overrides, allowed)
    module = spec.module(**{**spec.hyper_parameters, **overrides})
    module.check()
    return module
