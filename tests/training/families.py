"""A small run of each family of models, with all on that draws random numbers.

It is a recipe for `vit-jax train --config` too: of the family that $FAMILY names.
"""

import os

from vit_jax.training.config import base_config

STEPS = 3


def _run():
    config = base_config()
    config.total_steps = STEPS
    config.data.source = "digits"
    config.data.update(batch_size=16, eval_batch_size=360, mean=(0.5,), std=(0.5,))
    config.data.train_transform = "random_shift(1) | random_erasing(0.5)"
    config.optim.lr = 3e-3
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 1
    config.ema_decay = 0.5
    config.log_every_steps = 1
    config.model.update(img_size=8, patch_size=2, in_chans=1, mlp_ratio=2.0)
    return config


def _classifier():
    config = _run()
    config.objective.mixup_alpha = config.objective.cutmix_alpha = 1.0
    config.model.update(drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1)
    return config


def vit():
    """17 tokens, which nothing divides."""
    config = _classifier()
    config.model.update(name="vit_tiny_patch16_224", embed_dim=16, depth=2, num_heads=2)
    return config


def swin():
    """Maps of 8 x 8 and 4 x 4 tokens, windows of 4 x 4, shifted and not."""
    config = _classifier()
    config.model.update(name="swinv2_tiny_window8_256", window_size=4, patch_size=1)
    config.model.update(embed_dim=8, depths=(2, 1), num_heads=(2, 4))
    return config


def mae():
    """Five tokens of 17 in the encoder."""
    config = _run()
    config.model.update(name="mae_vit_tiny_patch16", embed_dim=16, depth=2, num_heads=2)
    config.model.update(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    config.objective = {"name": "mae"}
    config.checkpoint.update(best_metric="loss", best_mode="min")
    return config


def resnet():
    """Maps of 8 x 8 and 4 x 4, without what draws random numbers in the model, which it lacks."""
    config = _run()
    config.objective.mixup_alpha = config.objective.cutmix_alpha = 1.0
    config.model = {"name": "resnetv2_50x1_bit", "num_classes": None, "img_size": 8, "in_chans": 1}
    config.model.update(layers=(1, 1), width=32, stem="small")
    return config


FAMILIES = {"vit": vit, "swin": swin, "mae": mae, "resnet": resnet}


def get_config():
    return FAMILIES[os.environ["FAMILY"]]()
