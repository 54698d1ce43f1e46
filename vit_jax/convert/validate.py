"""Proves that converted weights are the same network: ours against an independent one in PyTorch.

Both are fed the same images, in float64 unless asked otherwise; hidden states are compared at the
embedding, after each block, after the last norm and at the output, and gradients at each parameter.
"""

import functools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vit_jax import storage
from vit_jax.convert import folder, own, params, pretrained
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts import Source
from vit_jax.convert.oracles import Oracle, build
from vit_jax.convert.oracles import own as own_oracle
from vit_jax.convert.oracles.oracle import mask_noise
from vit_jax.convert.report import Difference, Report
from vit_jax.convert.source import identify, open_source
from vit_jax.data.preprocessing import preprocess
from vit_jax.errors import UserError
from vit_jax.models import Preprocessing
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.vit import pair

# Largest max|a-b| / max|b| of a hidden state, and of a parameter's gradient.
STATE_LIMITS = {"float64": 1e-10, "float32": 2e-5}
GRADIENT_LIMIT = 1e-8
IMAGES = 2
CAPTURE = ("embedding", "tokens", "features")
# Parameters whose gradient is zero on paper, with one beside each that tells the scale of rounding:
# a bias that all keys share adds one number to all scores of a query; the softmax takes it away.
VANISHING = {"k_norm/bias": "k_norm/scale"}


def validate(
    source: str | os.PathLike[str],
    model: str | PlainModule | None = None,
    *,
    against: str | None = None,
    dtype: str = "float64",
    gradients: bool = False,
    photo: str | os.PathLike[str] | None = None,
    seed: int = 0,
    json_file: str | os.PathLike[str] | None = None,
    mapping: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    key: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> Report:
    """Loads a source here and in an independent PyTorch implementation, and compares the two.

    Args:
        source: see `pretrained.load`.
        model: see `pretrained.load`.
        against: "transformers" or "timm"; None takes the one that reads the source by itself, else
            the first that can hold the model. With `mapping`, the module that the mapping builds.
        dtype: of both computations, "float64" or "float32".
        gradients: compares the gradients of a scalar with respect to every parameter too; in
            float64 alone.
        photo: a picture to compare on, beside the random images.
        seed: of the images, and of the scalar: it weighs the outputs by random numbers.
        json_file: where the report is written as JSON as well (`Report.to_json`).
        mapping: see `pretrained.load`.
        revision: see `pretrained.load`.
        key: see `pretrained.load`.
        cache_dir: see `pretrained.load`.
        offline: see `pretrained.load`.

    Raises:
        UserError: the source cannot be loaded here or there; an unknown dtype or library; a library
            is not installed; or the report cannot be written.
    """
    _check_request(dtype, gradients)
    if json_file is not None:
        storage.check_writable(json_file)
    if photo is not None:
        preprocess(photo, Preprocessing(), 1)  # what cannot be decoded is said before the long work
    with tqdm(desc="loading", disable=None, leave=False, bar_format="{desc} ...") as bar:
        where = dict(revision=revision, key=key, cache_dir=cache_dir, offline=offline)
        ours, oracle = _load(source, model, against, mapping, where)
        report = compare(
            ours,
            oracle,
            source=os.fspath(source),
            dtype=dtype,
            gradients=gradients,
            photo=photo,
            seed=seed,
            progress=bar.set_description_str,
        )
    if json_file is not None:
        with storage.writing(json_file):
            Path(json_file).write_text(report.to_json(), encoding="utf-8")
    return report


def _load(
    source: str | os.PathLike[str],
    model: str | PlainModule | None,
    against: str | None,
    mapping: str | os.PathLike[str] | None,
    where: Mapping[str, Any],
) -> tuple[Model, Oracle]:
    if folder.is_converted(source):
        ours, _ = pretrained.load(source, model, mapping=mapping, scan=True, **where)
        return ours, build(ours, against)
    opened = open_source(source, **where)
    if mapping is None:
        identity = identify(opened, model)
        ours = pretrained.read(opened, identity, "source", scan=True)
        # A library that is given the file does not know which part of it is meant.
        return ours, build(ours, against, opened if where["key"] is None else None, identity)
    if against is not None:
        raise UserError(
            f"against={against!r} and the mapping {mapping} are both given; with a mapping, the "
            "comparison is with the module that it builds: leave one out"
        )
    ours = pretrained.read(opened, own.identity(mapping, model), "source", scan=True)
    return ours, own_oracle.load(own.read(mapping), opened)


def compare(
    model: Model,
    oracle: Oracle,
    *,
    source: str = "the model",
    dtype: str = "float64",
    gradients: bool = False,
    photo: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compares a model with an oracle that has the same weights.

    Args:
        model: ours.
        oracle: theirs.
        source: what the report says was checked.
        dtype: see `validate`.
        gradients: see `validate`.
        photo: see `validate`.
        seed: see `validate`.
        progress: is told what is being done.

    Raises:
        UserError: an unknown dtype, or gradients in float32; or the photo cannot be read.
    """
    _check_request(dtype, gradients)
    images = _images(model, photo, seed).astype(dtype)
    progress("PyTorch computes")
    theirs, stored = _theirs(oracle, images, dtype, gradients, seed)
    progress("JAX compiles and computes")
    states, grads = _ours(model, images, dtype, gradients, seed)
    limit = STATE_LIMITS[dtype]
    rows = [_difference(place, _like(states[place], b), b, limit) for place, b in theirs.items()]
    found: list[Difference] = []
    if stored is not None:
        expected = oracle.to_ours(stored, model.module, dtype)
        fixed = getattr(model.module, "fixed_params", ())  # no gradient reaches them here
        found = _gradient_rows(grads, {k: g for k, g in expected.items() if k not in fixed})
    return Report(source, oracle.name, oracle.how, dtype, len(images), tuple(rows), tuple(found))


def _check_request(dtype: str, gradients: bool) -> None:
    if dtype not in STATE_LIMITS:
        raise UserError(f"dtype={dtype!r} is unknown; choose one of {tuple(STATE_LIMITS)}")
    if gradients and dtype != "float64":
        raise UserError(
            f"gradients are compared in float64, got dtype={dtype!r}: in less, rounding hides what "
            "they would show"
        )


def _images(model: Model, photo: str | os.PathLike[str] | None, seed: int) -> np.ndarray:
    """Random images, and the photo where there is one: `(b, h, w, c)`."""
    module = model.module
    shape = (IMAGES, *pair(module.img_size), module.in_chans)
    images = np.random.default_rng(seed).normal(size=shape)
    if photo is None:
        return images
    picture = preprocess(photo, model.preprocessing, module.img_size)
    return np.concatenate([images, picture[None]])


def _cotangent(seed: int) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Weights of the outputs in the scalar whose gradient is taken."""
    return lambda shape: np.random.default_rng(seed + 1).normal(size=shape)


def _theirs(
    oracle: Oracle, images: np.ndarray, dtype: str, gradients: bool, seed: int
) -> tuple[Mapping[str, np.ndarray], Source | None]:
    if gradients:
        return oracle.states_and_gradients(images, dtype, _cotangent(seed))
    return oracle.states(images, dtype), None


def _ours(
    model: Model, images: np.ndarray, dtype: str, gradients: bool, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Hidden states by place, and gradients by path."""
    module = model.module.clone(param_dtype=dtype)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        tree = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params)
        found = None
        if gradients:
            shape = jax.eval_shape(functools.partial(_apply, module), tree, images)[0].shape
            weight = jnp.asarray(_cotangent(seed)(shape), dtype)
            (output, seen), found = _backward(module, tree, images, weight)
        else:
            output, seen = _forward(module, tree, images)
        output, seen, found = jax.device_get((output, seen, found))
    states = {"embedding": seen.embedding, "norm": seen.features, "output": output}
    states |= {f"blocks.{i}": tokens for i, tokens in enumerate(seen.tokens)}
    decoded = getattr(seen, "decoder_tokens", ())
    states |= {f"decoder.{i}": tokens for i, tokens in enumerate(decoded)}
    return states, {} if found is None else params.by_path(found)


def _apply(module: PlainModule, tree: Any, images: jax.Array) -> tuple[jax.Array, Any]:
    if not isinstance(module, MaskedAutoencoder):
        return module.apply({"params": tree}, images, capture=CAPTURE)
    noise = jnp.asarray(mask_noise(len(images), math.prod(module.grid())), images.dtype)
    capture = (*CAPTURE, "decoder_tokens")
    output, seen = module.apply({"params": tree}, images, noise=noise, capture=capture)
    return output.prediction, seen


_forward = jax.jit(_apply, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _backward(
    module: PlainModule, tree: Any, images: jax.Array, weight: jax.Array
) -> tuple[tuple[jax.Array, Any], Any]:
    """Output and states, and the gradient of `sum(output * weight)`."""

    def scalar(tree: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        output, seen = _apply(module, tree, images)
        return jnp.sum(output * weight), (output, seen)

    (_, found), gradients = jax.value_and_grad(scalar, has_aux=True)(tree)
    return found, gradients


def _like(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Our tokens as they have them.

    That is in a row where ours are a map (Swin of Transformers), or the class token alone where
    that is all that they normalise (CLIP).
    """
    if ours.ndim == 4 and theirs.ndim == 3:
        return ours.reshape(len(ours), -1, ours.shape[-1])
    return ours[:, 0] if ours.ndim == theirs.ndim + 1 else ours


def _difference(
    place: str, ours: np.ndarray, theirs: np.ndarray, limit: float, scale: float | None = None
) -> Difference:
    """How far two arrays are apart, relative to `scale` or the largest value of theirs."""
    if ours.shape != theirs.shape:
        raise UserError(
            f"{place} is {ours.shape} here and {theirs.shape} in PyTorch: these are other models"
        )
    apart = float(np.abs(ours - theirs).max(initial=0.0))
    scale = float(np.abs(theirs).max(initial=0.0)) if scale is None else scale
    if not apart:
        return Difference(place, apart, 0.0, limit)
    return Difference(place, apart, apart / scale if scale else math.inf, limit)


def _gradient_rows(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> list[Difference]:
    rows = []
    for path, b in theirs.items():
        scale = None
        for vanishing, beside in VANISHING.items():
            if path.endswith(vanishing):
                scale = float(np.abs(theirs[path.removesuffix(vanishing) + beside]).max())
        rows.append(_difference(path, ours[path], b, GRADIENT_LIMIT, scale))
    return rows
