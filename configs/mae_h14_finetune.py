"""A masked autoencoder's ViT-H/14 fine-tuned on ImageNet-1k (He et al. 2022, appendix A, table 9).

As `configs/mae_b16_finetune.py`, for 50 epochs and with more stochastic depth, from the run of
`configs/mae_h14_pretrain.py`. The paper reports 86.9 % top-1 after 1600 epochs of that.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("mae_b16_finetune.py"))
    config.total_epochs = 50
    config.model.name = "vit_huge_patch14_224"
    config.model.drop_path_rate = 0.2
    config.init_from = "runs/mae_h14"
    return config
