"""A small ViT on the embedded digits: 1,797 handwritten digits of 8x8 grey pixels, ten classes.

    vit-jax train --config configs/digits.py --workdir runs/digits

Nothing is downloaded; the numbers are ours, chosen for two CPU cores.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = base_config()
    config.total_epochs = 200

    config.model.name = "vit_tiny_patch16_224"
    config.model.update(img_size=8, patch_size=2, in_chans=1)
    config.model.update(embed_dim=64, depth=3, num_heads=4, mlp_ratio=2.0)
    config.model.update(global_pool="avg", class_token=False, drop_path_rate=0.1)
    config.model.pos_embed = "sincos_2d"  # fixed: 1,437 pictures are few to learn neighbours from

    config.data.source = "digits"
    config.data.batch_size = 128
    config.data.eval_batch_size = 360
    config.data.train_transform = "random_shift(1)"
    config.data.eval_transform = "resize"
    config.data.cache = True

    config.optim.lr = 3e-3
    config.optim.weight_decay = 0.3
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 8
    config.ema_decay = 0.99

    config.eval_every_epochs = 25
    config.checkpoint.every_epochs = 25
    return config
