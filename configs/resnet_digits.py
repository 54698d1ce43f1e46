"""A small ResNet on the embedded digits, the teacher of `configs/deit_digits.py`.

    vit-jax train --config configs/resnet_digits.py --workdir runs/resnet_digits

Two stages of BiT's bottlenecks at full resolution (8x8 and 4x4); the numbers are ours, chosen for
two CPU cores.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("digits.py"))
    config.total_epochs = 40
    config.model = ConfigDict({"name": "resnetv2_50x1_bit", "num_classes": None, "img_size": 8})
    config.model.update(in_chans=1, layers=(2, 2), width=32, stem="small")
    config.objective.mixup_alpha = 0.2
    config.optim.lr = 2e-3
    config.schedule.warmup_epochs = 2
    config.eval_every_epochs = 10
    config.checkpoint.every_epochs = 10
    return config
