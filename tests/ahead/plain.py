"""The tiny recipe without what takes long to compile and is nothing to these tests."""

from tests.training.processes import TINY
from vit_jax.training.config import load_config

CHANGES = (
    *(f"model.{name}_rate=0.0" for name in ("drop", "proj_drop", "drop_path")),
    "accumulate_steps=1",
    "ema_decay=0.0",
    "data.train_transform=resize",
)


def plain(*overrides):
    return load_config(TINY, [*CHANGES, *overrides])
