"""`mae_b16_linear_probe.py` for a ViT-H/14: a linear probe of a masked autoencoder.

50 epochs, as the authors' repository has it for this size (FINETUNE.md), where the paper's model of
1600 epochs reaches 76.6 % top-1.

    vit-jax train --config configs/mae_h14_linear_probe.py --workdir runs/mae_h14_probe \
        --config.init_from=runs/mae_h14
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("mae_b16_linear_probe.py"))
    config.total_epochs = 50
    config.init_from = "runs/mae_h14"  # of mae_h14_pretrain.py
    config.model.name = "vit_huge_patch14_224"
    config.tpu_topology = "v5e:8x8"  # ours: 256 images a chip
    return config
