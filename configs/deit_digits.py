"""A small distilled ViT on the embedded digits (hard distillation, Touvron et al. 2021, eq. 3).

    vit-jax train --config configs/resnet_digits.py --workdir runs/resnet_digits
    vit-jax train --config configs/deit_digits.py --workdir runs/deit_digits

The student has a distillation token and learns from the run of `configs/resnet_digits.py`; the
other numbers are ours, chosen for two CPU cores. Over three seeds it reached 98.6 % on average and
the same student without token and teacher 98.2 %; with 100 epochs 97.1 % and 97.4 %. One picture of
the 360 is 0.3 %, so digits show how distillation is run, not by how much it helps.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("digits.py"))
    config.total_epochs = 200
    config.model.update(class_token=True, dist_token=True, global_pool="token")
    config.objective.name = "distillation"
    config.objective.teacher = "runs/resnet_digits"
    config.eval_every_epochs = 25
    return config
