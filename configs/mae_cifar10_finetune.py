"""The encoder of `configs/mae_cifar10.py`, fine-tuned on the labels of CIFAR-10.

    vit-jax train --config configs/mae_cifar10_finetune.py --workdir runs/mae_cifar10_finetune \
        --config.data.source=folder:PATH

Data, length and schedule are those of `configs/cifar10.py`, which is the same model from scratch.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("cifar10.py"))
    config.model.update(class_token=True, weight_init="mae")
    config.init_from = "runs/mae_cifar10"
    config.init_changes.drawn = ("head/*", "fc_norm/*")
    config.init_changes.left_out = ("norm/*", "decoder/*")  # its norm came before pooling
    config.optim.lr = 1e-3
    config.optim.layer_decay = 0.75  # He et al. 2022, table 9
    return config
