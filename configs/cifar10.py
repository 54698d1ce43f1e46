"""A small ViT on CIFAR-10 (Krizhevsky 2009): 50,000 colour images of 32x32, ten classes.

From folders of images, `PATH/train/<class>/*` and `PATH/test/<class>/*`:

    vit-jax train --config configs/cifar10.py --workdir runs/cifar10 \
        --config.data.source=folder:PATH

or from TFDS, prepared once by `tfds build cifar10 --file_format=array_record` (which needs
TensorFlow), with `--config.data.source=tfds:cifar10`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe. Sizes are for two CPU cores; on a GPU use more epochs and a wider model."""
    config = base_config()
    config.total_epochs = 12

    config.model.name = "vit_tiny_patch16_224"
    config.model.update(img_size=32, patch_size=4)
    config.model.update(embed_dim=96, depth=4, num_heads=4, mlp_ratio=2.0)
    config.model.update(global_pool="avg", class_token=False, scan=True)

    config.data.source = "folder:data/cifar10"
    config.data.batch_size = 256
    config.data.eval_batch_size = 500
    config.data.train_transform = "random_shift(4)|flip"  # the usual crop of 32 from 40
    config.data.eval_transform = "resize"
    config.data.cache = True
    # Mean and standard deviation of the training images, per channel.
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)

    config.optim.lr = 2e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 1
    config.ema_decay = 0.995

    config.eval_every_epochs = 3
    config.checkpoint.every_epochs = 3
    return config
