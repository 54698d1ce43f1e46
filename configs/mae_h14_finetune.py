"""A masked autoencoder's ViT-H/14 fine-tuned on ImageNet-1k (He et al. 2022, appendix A, table 9).

As `configs/mae_b16_finetune.py`, for 50 epochs, with larger rates and more stochastic depth, from
the run of `configs/mae_h14_pretrain.py`: the authors' command for this size (facebookresearch/mae,
FINETUNE.md). The paper reports 86.9 % top-1 after 1600 epochs of that.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("mae_b16_finetune.py"))
    config.total_epochs = 50
    config.model.name = "vit_huge_patch14_224"
    config.model.drop_path_rate = 0.3
    config.init_from = "runs/mae_h14"
    config.optim.lr = 1e-3 * 1024 / 256  # --blr times batch over 256
    config.optim.layer_decay = 0.75
    config.schedule.final_lr = 1e-6 / config.optim.lr
    config.tpu_topology = "v6e:8x8"  # ours: 16 images a chip
    return config
