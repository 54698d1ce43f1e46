"""A run that is small but has everything on: dropout, augmentation, EMA, accumulation, evaluation.

It is a recipe for `vit-jax train --config` too.
"""

from vit_jax.training.config import base_config


def get_config():
    config = base_config()
    config.total_steps = 12
    config.model.name = "vit_tiny_patch16_224"
    config.model.update(img_size=8, patch_size=2, in_chans=1, embed_dim=32, depth=2, num_heads=4)
    config.model.update(mlp_ratio=2.0, global_pool="avg", class_token=False, scan=True)
    config.model.update(drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.1)
    config.data.source = "digits"
    config.data.batch_size = 32
    config.data.eval_batch_size = 112  # leaves the last batch of 360 images partly padded
    config.data.train_transform = "random_shift(1)"
    config.optim.lr = 3e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 3
    config.ema_decay = 0.9
    config.accumulate_steps = 2
    config.checkpoint.every_steps = 3
    config.checkpoint.keep_last = 2
    config.eval_every_steps = 6
    config.log_every_steps = 1
    return config
