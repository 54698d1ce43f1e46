"""A small ViT on Fashion-MNIST (Xiao et al. 2017): 60,000 grey images of 28x28, ten classes.

From the four IDX files as they are distributed:

    vit-jax train --config configs/fashion_mnist.py --workdir runs/fashion_mnist \
        --config.data.source=idx:PATH_OF_THE_FOLDER

or from TFDS, prepared once by `tfds build fashion_mnist --file_format=array_record` (which needs
TensorFlow), with `--config.data.source=tfds:fashion_mnist`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe. Sizes are for two CPU cores; the numbers are ours, chosen on the training set."""
    config = base_config()
    config.total_epochs = 12

    config.model.name = "vit_tiny_patch16_224"
    config.model.update(img_size=28, patch_size=4, in_chans=1)
    config.model.update(embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0)
    config.model.update(global_pool="avg", class_token=False, scan=True)

    config.data.source = "idx:data/fashion_mnist"
    config.data.batch_size = 256
    config.data.eval_batch_size = 500
    config.data.train_transform = "random_shift(2)|flip"
    config.data.eval_transform = "resize"
    config.data.cache = True
    config.data.mean, config.data.std = (0.286,), (0.353,)  # of the training images

    config.optim.lr = 3e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 1
    config.ema_decay = 0.995

    config.eval_every_epochs = 3
    config.checkpoint.every_epochs = 3
    return config
