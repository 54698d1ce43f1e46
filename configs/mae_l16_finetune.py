"""A masked autoencoder's ViT-L/16 fine-tuned on ImageNet-1k (He et al. 2022, appendix A, table 9).

As `configs/mae_b16_finetune.py`, for 50 epochs, from the run of `configs/mae_l16_pretrain.py`. The
paper reports 85.9 % top-1 after 1600 epochs of that.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("mae_b16_finetune.py"))
    config.total_epochs = 50
    config.model.name = "vit_large_patch16_224"
    config.init_from = "runs/mae_l16"
    return config
