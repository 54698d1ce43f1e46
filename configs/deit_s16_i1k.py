"""DeiT-S on ImageNet-1k, without distillation (Touvron et al. 2021, table 9).

As `configs/deit_b16_i1k.py`, with the smaller model. The paper reports 79.8 % top-1.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("deit_b16_i1k.py"))
    config.model.name = "deit_small_patch16_224"
    config.tpu_topology = "v5e:2x4"  # ours: 128 images a chip
    return config
