"""A short run of masked autoencoding on the digits, made once for all tests that look at one."""

import functools
import tempfile
from pathlib import Path

import vit_jax
from vit_jax.training.config import base_config

SIZES = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)


def on_digits():
    config = base_config()
    config.data.update(mean=(0.5,), std=(0.5,), batch_size=120, eval_batch_size=120)
    return config


def get_config():
    config = on_digits()
    config.total_steps = 6
    config.model.update(name="mae_vit_tiny_patch16", **SIZES, **DECODER)
    config.objective = {"name": "mae"}
    config.optim.lr = 1e-2
    config.optim.weight_decay = 0.1
    config.ema_decay = 0.1
    config.checkpoint.keep_best = 0
    config.eval_every_steps = 3
    return config


@functools.cache
def finished():
    """How the run ended, and its folder, which is removed at the end of the process."""
    workdir = Path(folder().name)
    return vit_jax.train(get_config(), workdir), workdir


@functools.cache
def folder():
    return tempfile.TemporaryDirectory()
