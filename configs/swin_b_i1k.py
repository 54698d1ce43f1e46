"""Swin-B on ImageNet-1k (Liu et al. 2021, appendix A2.1).

As `configs/swin_t_i1k.py`, with the larger model and more stochastic depth. The paper reports
83.5 % top-1.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("swin_t_i1k.py"))
    config.model.name = "swin_base_patch4_window7_224"
    config.model.drop_path_rate = 0.5  # configs/swin/swin_base_patch4_window7_224.yaml
    config.tpu_topology = "v5e:8x8"  # ours: 16 images a chip
    return config
