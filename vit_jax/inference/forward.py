"""A model, asked about many pictures: decoded in threads, in batches of one size, a step ahead.

The last batch is filled up to that size, so that one program is compiled. While the device works on
a batch, the next ones are decoded.
"""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from vit_jax.convert.folder import Model
from vit_jax.convert.pretrained import check_not_rounded
from vit_jax.data.decode import DecodeError
from vit_jax.data.preprocessing import preprocess
from vit_jax.errors import UserError

# (module, variables, images (b, h, w, c)) -> arrays of b rows
Function = Callable[[Any, Any, jax.Array], Any]
THREADS = 8  # that decode; Pillow does so without Python's lock


class Rows(NamedTuple):
    """What a model said of some pictures: NumPy arrays with a row for each."""

    paths: list[Any]  # or what else the pictures were asked for by
    values: Any


class Forward:
    """A function of a model, compiled for batches of one size.

    Attributes:
        model: whose parameters it has on the device.
        batch_size: images in a batch.
        skipped: what was left out in the latest call of `over`: path and cause.
    """

    def __init__(self, model: Model, function: Function, batch_size: int = 32):
        """Puts the parameters on the device; compiles at the first call.

        Args:
            model: see `vit_jax.open_model`.
            function: (module, variables, images `(b, h, w, c)`) -> arrays with b rows.
            batch_size: images in a batch.

        Raises:
            UserError: a batch size below 1; or the preprocessing is of images with other channels
                than the model's; or float64 parameters, while JAX does not have it.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: expected 1 or more")
        self.model, self.batch_size = model, batch_size
        self.skipped: list[tuple[Any, str]] = []
        self._preprocessing = model.preprocessing.for_channels(model.module.in_chans)
        check_not_rounded(model.params)
        self._variables = {"params": jax.device_put(model.params)}
        self._apply = jax.jit(functools.partial(function, model.module))

    def prepare(self, picture: Any) -> np.ndarray:
        """One image `(h, w, c)` of a picture, see `vit_jax.preprocess`.

        Raises:
            UserError: it cannot be decoded or read; names the file.
        """
        try:
            return preprocess(picture, self._preprocessing, self.model.module.img_size)
        except OSError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot read {picture}: {error.strerror or error}") from error

    def __call__(self, images: Sequence[np.ndarray]) -> Any:
        """Starts with at most `batch_size` prepared images; returns arrays of `batch_size` rows.

        JAX gives them before they are computed. The rows after those of the images mean nothing.
        """
        rows = np.zeros((self.batch_size, *images[0].shape), np.float32)
        rows[: len(images)] = images
        return self._apply(self._variables, rows)

    def over(
        self,
        paths: Sequence[Any],
        title: str = "pictures",
        skip_unreadable: bool = False,
        prepare: Callable[[Any], np.ndarray] | None = None,
    ) -> Iterator[Rows]:
        """Yields what the model says of the pictures, in their order, batch by batch.

        On a terminal a bar shows how far it is.

        Args:
            paths: of files; or what `prepare` takes.
            title: of the bar.
            skip_unreadable: leaves out what cannot be decoded, and notes it in `skipped`.
            prepare: makes an image `(h, w, c)` of one of them, in threads; None: `self.prepare`.

        Raises:
            UserError: a picture that cannot be decoded or read, by name; or, where these are left
                out, none is left.
        """
        self.skipped = []
        running: collections.deque[Rows] = collections.deque()
        with tqdm(total=len(paths), desc=title, disable=None, leave=False) as bar:
            for done, images in self._batches(paths, skip_unreadable, prepare or self.prepare):
                running.append(Rows(done, self(images)))
                if len(running) > 1:
                    yield _ready(running.popleft())
                bar.update(len(done))
            yield from map(_ready, running)
        if paths and len(self.skipped) == len(paths):
            raise UserError(f"none of {len(paths)} pictures can be read: {self.skipped[0][1]}")

    def _batches(
        self, paths: Sequence[Any], skip_unreadable: bool, prepare: Callable[[Any], np.ndarray]
    ) -> Iterator[tuple[list[Any], list[np.ndarray]]]:
        """Paths and images of each batch; all batches but the last are full."""
        done: list[Any] = []
        images: list[np.ndarray] = []
        for path, prepared in _ahead(prepare, paths, 2 * self.batch_size):
            try:
                image = prepared.result()
            except UserError as error:
                if not skip_unreadable:
                    raise
                cause = error.cause if isinstance(error, DecodeError) else str(error)
                self.skipped.append((path, cause))
                continue
            done.append(path)
            images.append(image)
            if len(images) == self.batch_size:
                yield done, images
                done, images = [], []
        if images:
            yield done, images


def _ahead(
    function: Callable[[Any], Any], paths: Iterable[Any], ahead: int
) -> Iterator[tuple[Any, Future]]:
    """Calls a function of each path in threads, so many ahead of the one that is asked for."""
    pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), thread_name_prefix="decode")
    try:
        waiting: collections.deque[tuple[Any, Future]] = collections.deque()
        for path in paths:
            waiting.append((path, pool.submit(function, path)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


def _ready(rows: Rows) -> Rows:
    """The rows of the pictures, as NumPy arrays."""
    values = jax.device_get(rows.values)
    return Rows(rows.paths, jax.tree.map(lambda x: x[: len(rows.paths)], values))
