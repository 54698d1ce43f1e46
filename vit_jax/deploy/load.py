"""Runs an exported StableHLO program: with JAX and NumPy alone, without Flax and without models."""

import os
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.deploy import description
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import jax
    import numpy as np

PLATFORM_NAMES = {"gpu": "cuda"}  # what JAX calls a backend -> what a program calls the platform


class ExportedModel:
    """A program that was exported, ready to be called.

    Attributes:
        description: the whole of its `model.json`.
        name: of the model, or None.
        input_shape: ("batch", height, width, channels).
        input_dtype: "float32" (normalised, as `prepare` gives it) or "uint8".
        output_shape: ("batch", ...).
        what: what comes out: "logits", "pooled", "cls", "mean" or "tokens".
        class_names: of the logits, or None.
        preprocessing: how pictures are prepared, as `vit_jax.preprocess` takes it.
        platforms: where it runs.
        exported: the `jax.export.Exported`.
    """

    def __init__(self, content: dict[str, Any], exported: "jax.export.Exported"):
        """Takes the content of `model.json` and the program."""
        import jax

        self.description = content
        self.name: str | None = content.get("name")
        self.input_shape = tuple(content["input"]["shape"])
        self.input_dtype: str = content["input"]["dtype"]
        self.output_shape = tuple(content["output"]["shape"])
        self.what: str = content["output"]["name"]
        names = content["class_names"]
        self.class_names = None if names is None else tuple(names)
        self.preprocessing = types.SimpleNamespace(**content["preprocessing"])
        self.platforms = tuple(exported.platforms)
        self.exported = exported
        self._call = jax.jit(exported.call)

    def __call__(self, images: Any) -> "jax.Array":
        """What the model says of pictures; compiled once for each batch size.

        Args:
            images: `(b, height, width, channels)` of the program's dtype, see `prepare`.

        Raises:
            UserError: another shape or dtype, or JAX runs on a platform that it is not for.
        """
        import jax

        shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
        sides = self.input_shape[1:]
        if shape is None or len(shape) != 4 or tuple(shape[1:]) != sides or not shape[0]:
            raise UserError(
                f"images have shape {shape}; expected (batch, {', '.join(map(str, sides))})"
            )
        if str(dtype) != self.input_dtype:
            raise UserError(f"images are {dtype}; this program takes {self.input_dtype}")
        platform = jax.default_backend()
        if PLATFORM_NAMES.get(platform, platform) not in self.platforms and not (
            platform == "gpu" and "rocm" in self.platforms
        ):
            raise UserError(
                f"JAX runs on {platform!r}, and the program is for {', '.join(self.platforms)}: "
                "export it with --platforms, or set JAX_PLATFORMS"
            )
        return self._call(images)

    def prepare(self, picture: Any) -> "np.ndarray":
        """One picture as the program takes it, `(height, width, channels)`; needs Pillow.

        Args:
            picture: a path, an encoded file's bytes, a Pillow image or uint8 pixels, see
                `vit_jax.preprocess`.

        Raises:
            UserError: see there.
        """
        from vit_jax.data.preprocessing import cropped, preprocess

        prepared = cropped if self.input_dtype == "uint8" else preprocess
        return prepared(picture, self.preprocessing, self.input_shape[1:3])


def load_exported(folder: str | os.PathLike[str]) -> ExportedModel:
    """Opens what `vit-jax export --format stablehlo` wrote.

        model = vit_jax.load_exported("program")
        logits = model(model.prepare("photo.jpg")[None])

    Args:
        folder: with `model.json` and the program.

    Raises:
        MissingFileError: there is no exported program.
        UserError: it is one for another runtime, or damaged.
    """
    from jax import export as jax_export

    content = description.read(folder)
    if content["program"] != "stablehlo":
        raise UserError(
            f"{os.fspath(folder)} holds a program of format {content['program']!r}: JAX runs "
            "those of --format stablehlo, onnxruntime those of --format onnx"
        )
    path = Path(folder) / content["file"]
    try:
        exported = jax_export.deserialize(bytearray(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of the container or of the compiler, whatever the damage hits
        raise UserError(
            f"{path} is damaged, or of a version that this JAX does not read ({error}): export "
            "it again"
        ) from error
    return ExportedModel(content, exported)
