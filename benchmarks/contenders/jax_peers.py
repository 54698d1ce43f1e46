"""Other JAX implementations of the plain ViT, each from a checkout whose folder is given.

All have a class token and a thousand classes. None of their training loops can be called on a
batch, so each is trained by the step that all of them have: a jitted gradient of the mean
cross-entropy and an update by Optax's AdamW, with donated parameters and moments.
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contenders import Steps, Work

SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}
# (width, depth, heads) by the letters of the papers.
SHAPES = {
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
}
CLASSES = 1000
Logits = Callable[[Any, jax.Array], jax.Array]


def build(work: Work, variant: str, checkout: pathlib.Path | None) -> Steps:
    """The steps of a piece of work."""
    sys.path.insert(0, str(checkout))
    size, patch = _size(work.model)
    images = jax.random.normal(jax.random.key(0), (work.batch, work.image_size, work.image_size, 3))
    init, logits = _PEERS[_which(checkout)](size, patch, work, scan=variant == "scan")
    if work.kind == "compile":
        return _compilations(init, logits, images)
    params = jax.jit(init)(jax.random.key(1), images)["params"]
    make = _forward if work.kind == "forward" else _train
    return make(logits, params, images)


def _size(model: str) -> tuple[str, int]:
    """Letter and patch size: S and 16 of vit_small_patch16_224."""
    _, size, patch, *_ = model.split("_")
    return SIZES[size], int(patch.removeprefix("patch"))


def _which(checkout: pathlib.Path) -> str:
    """Which of the peers lies in a folder, by the file that has its model."""
    files = {
        "big_vision/models/vit.py": "big_vision",
        "vit_jax/models_vit.py": "vision_transformer",
        "src/modeling.py": "deit3-jax",
    }
    for file, peer in files.items():
        if (checkout / file).exists():
            return peer
    raise FileNotFoundError(f"{checkout} has none of {', '.join(files)}")


def _big_vision(size: str, patch: int, work: Work, scan: bool) -> tuple[Callable, Logits]:
    from big_vision.models import vit

    options = dict(pool_type="tok", dtype_mm=work.dtype, scan=scan)
    model = vit.Model(CLASSES, variant=f"{size}/{patch}", **options)
    return model.init, lambda params, images: model.apply({"params": params}, images)[0]


def _vision_transformer(size: str, patch: int, work: Work, scan: bool) -> tuple[Callable, Logits]:
    from ml_collections import ConfigDict

    from vit_jax import models_vit

    width, depth, heads = SHAPES[size]
    model = models_vit.VisionTransformer(
        num_classes=CLASSES,
        patches=ConfigDict({"size": (patch, patch)}),
        transformer=dict(
            num_layers=depth,
            mlp_dim=4 * width,
            num_heads=heads,
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
        ),
        hidden_size=width,
    )

    def init(key: jax.Array, images: jax.Array) -> Any:
        return model.init(key, images, train=False)

    return init, lambda params, images: model.apply({"params": params}, images, train=False)


def _deit3(size: str, patch: int, work: Work, scan: bool) -> tuple[Callable, Logits]:
    sys.path.insert(0, str(pathlib.Path(sys.path[0]) / "src"))
    from modeling import ViT

    width, depth, heads = SHAPES[size]
    model = ViT(layers=depth, dim=width, heads=heads, patch_size=patch, image_size=work.image_size)
    return model.init, lambda params, images: model.apply({"params": params}, images)


_PEERS = {
    "big_vision": _big_vision,
    "vision_transformer": _vision_transformer,
    "deit3-jax": _deit3,
}


def _forward(logits: Logits, params: Any, images: jax.Array) -> Steps:
    apply = jax.jit(logits)

    def steps(count: int) -> None:
        for _ in range(count):
            result = apply(params, images)
        jax.block_until_ready(result)

    return steps


def _update(logits: Logits) -> tuple[optax.GradientTransformation, Callable]:
    """The optimizer, and a jitted update ((params, moments), images) -> ((params, moments), loss).

    The first argument is donated.
    """
    optimizer = optax.adamw(1e-3, weight_decay=0.0)

    def update(state: Any, images: jax.Array) -> tuple[Any, jax.Array]:
        labels = jnp.zeros(len(images), jnp.int32)

        def loss(params: Any) -> jax.Array:
            found = logits(params, images).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean()

        params, moments = state
        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    return optimizer, jax.jit(update, donate_argnums=0)


def _train(logits: Logits, params: Any, images: jax.Array) -> Steps:
    optimizer, update = _update(logits)
    state = (params, optimizer.init(params))

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, value = update(state, images)
        jax.block_until_ready((state, value))

    return steps


def _compilations(init: Callable, logits: Logits, images: jax.Array) -> Steps:
    params = jax.eval_shape(init, jax.random.key(1), images)["params"]

    def steps(count: int) -> None:
        for _ in range(count):
            jax.clear_caches()
            optimizer, update = _update(logits)
            update.lower((params, jax.eval_shape(optimizer.init, params)), images).compile()

    return steps
