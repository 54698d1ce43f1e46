"""From an uploaded file to an answer, in threads: the event loop only waits."""

import asyncio
import base64
import dataclasses
import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from PIL import Image

from vit_jax.data.decode import FORMATS, DecodeError, stored_size, to_image
from vit_jax.inference.forward import THREADS
from vit_jax.serving.batches import Batches
from vit_jax.serving.engine import Engine, Looked
from vit_jax.serving.limits import Limits, Refused
from vit_jax.visualize.reconstruction import to_pixels

NAME = "the picture"
DIGITS = 6  # of a share


class Asking:
    """Answers questions about pictures, several at once.

    Attributes:
        engine: has the model.
        limits: of pictures.
        batches: computes.
    """

    def __init__(self, engine: Engine, limits: Limits):
        """Starts the threads; `close` ends them."""
        self.engine, self.limits = engine, limits
        self.batches = Batches(
            lambda items: engine([image for image, _ in items], [look for _, look in items]),
            engine.batch_size,
        )
        workers = min(THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def close(self) -> None:
        """Ends the threads when all that was asked is answered."""
        self._pool.shutdown()
        self.batches.close()

    async def answer(self, data: bytes, look: bool) -> dict[str, Any]:
        """What the model says of a picture.

        Args:
            data: its file.
            look: with the attention over it, where the model has it.

        Returns:
            "classes", as `vit-jax predict --json` has them, or None; and if asked "attention" and
            "picture", see docs/serve.md.

        Raises:
            Refused: it has too many pixels, or cannot be decoded.
        """
        loop = asyncio.get_running_loop()
        look = look and self.engine.no_attention is None
        image = await loop.run_in_executor(self._pool, self._prepare, data)
        found = await asyncio.wrap_future(self.batches.submit((image, look)))
        classes = None if found.guesses is None else list(map(dataclasses.asdict, found.guesses))
        if found.looked is None:
            return {"classes": classes}
        shown = await loop.run_in_executor(self._pool, self._shown, image, found.looked)
        return {"classes": classes, **shown}

    def _prepare(self, data: bytes) -> np.ndarray:
        """The picture as the model takes it; what is too large is refused by its header."""
        try:
            self.limits.check_pixels(*stored_size(data, NAME))
            return self.engine.prepare(data)
        except DecodeError as error:
            if isinstance(error.__cause__, Image.DecompressionBombError):
                raise Refused(413, f"{NAME} has too many pixels: send a smaller one") from error
            raise Refused(422, str(error)) from error

    def _shown(self, image: np.ndarray, looked: Looked) -> dict[str, Any]:
        """The maps, and the picture that they lie over."""
        maps = [
            {
                "name": name,
                "patches": [[_rounded(x) for x in row] for row in found.patches.tolist()],
                "elsewhere": _rounded(float(found.prefix.sum())),
            }
            for name, found in self.engine.maps(looked)
        ]
        return {
            "attention": {**self.engine.whose(), "maps": maps},
            "picture": self._png(image),
        }

    def _png(self, image: np.ndarray) -> str:
        """A prepared picture as the URL of a PNG."""
        prep = self.engine.model.preprocessing.for_channels(image.shape[-1])
        file = io.BytesIO()
        to_image(to_pixels(image, prep.mean, prep.std)).save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    def described(self, top_k: int) -> dict[str, Any]:
        """What is asked here, for people and programs; nothing of this machine."""
        model, engine = self.engine.model, self.engine
        height, width, channels = engine.picture_shape
        return {
            "name": model.name or type(model.module).__name__,
            "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
            "picture": {"height": height, "width": width, "channels": channels},
            "classes": None if engine.no_classes else model.module.num_classes,
            "class_names": model.class_names,
            "probabilities": model.probabilities,
            "no_classes": engine.no_classes,
            "attention": None if engine.no_attention else engine.whose(),
            "no_attention": engine.no_attention,
            "top_k": top_k,
            "limits": {
                "max_upload_bytes": self.limits.max_upload_bytes,
                "max_pixels": self.limits.max_pixels,
            },
            "formats": FORMATS,
        }


def _rounded(x: float) -> float:
    return float(f"{x:.{DIGITS}g}")
