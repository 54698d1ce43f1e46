"""A masked autoencoder on CIFAR-10, whose labels are not looked at.

    vit-jax train --config configs/mae_cifar10.py --workdir runs/mae_cifar10 \
        --config.data.source=folder:PATH
    vit-jax train --config configs/mae_cifar10_finetune.py --workdir runs/mae_cifar10_finetune \
        --config.data.source=folder:PATH

The encoder is the model of `configs/cifar10.py` with a class token, the data is prepared as there;
what is of masked autoencoders is from He et al. 2022, table 8, but for the length.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe. The length is for two CPU cores; the paper's are 800 epochs and more."""
    config = load_config(Path(__file__).with_name("cifar10.py"))
    config.total_epochs = 100

    encoder = config.model
    config.model = ConfigDict({"name": "mae_vit_tiny_patch16", "mask_ratio": 0.75})
    for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "scan"):
        config.model[key] = encoder[key]
    config.model.update(decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=4)
    config.objective = {"name": "mae", "norm_pix_loss": True}

    config.data.train_transform = "inception_crop(scale=(0.2, 1.0))|flip"
    config.data.interpolation = "bicubic"

    config.optim.lr = 1.5e-3
    config.optim.adamw.b2 = 0.95
    config.optim.weight_decay = 0.05
    config.schedule.warmup_epochs = 5
    config.ema_decay = 0.0

    config.checkpoint.best_metric = "loss"
    config.checkpoint.best_mode = "min"
    config.checkpoint.every_epochs = 10
    config.eval_every_epochs = 10
    return config
