"""Masked autoencoding of the embedded digits: 1,437 pictures of 8x8 grey pixels, without labels.

    vit-jax train --config configs/mae_digits.py --workdir runs/mae_digits
    tensorboard --logdir runs/mae_digits    # "images": what is masked, and what is painted

Nothing is downloaded; the numbers are ours, chosen for two CPU cores. A quarter of 16 patches is
little to paint a digit from: half of them are masked here.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = base_config()
    config.total_epochs = 150

    config.model.name = "mae_vit_tiny_patch16"
    config.model.update(img_size=8, patch_size=2, in_chans=1)
    config.model.update(embed_dim=64, depth=3, num_heads=4, mlp_ratio=2.0)
    config.model.update(decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4)
    config.model.mask_ratio = 0.5
    config.objective = {"name": "mae", "norm_pix_loss": False}  # four pixels have little to norm

    config.data.source = "digits"
    config.data.batch_size = 128
    config.data.eval_batch_size = 360
    config.data.mean, config.data.std = (0.5,), (0.5,)
    config.data.train_transform = "random_shift(1)"
    config.data.eval_transform = "resize"
    config.data.cache = True

    config.optim.lr = 3e-3
    config.optim.adamw.b2 = 0.95  # the paper's, table 8
    config.optim.weight_decay = 0.05  # the paper's, table 8
    config.schedule.warmup_epochs = 8

    config.checkpoint.best_metric = "loss"
    config.checkpoint.best_mode = "min"
    config.checkpoint.every_epochs = 50
    config.eval_every_epochs = 25
    return config
