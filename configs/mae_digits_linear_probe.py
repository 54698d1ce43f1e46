"""A linear probe of what `mae_digits.py` learned without labels.

    vit-jax train --config configs/mae_digits.py --workdir runs/mae_digits
    vit-jax train --config configs/mae_digits_linear_probe.py --workdir runs/mae_digits_probe

Only the ten-way linear classifier is trained; the encoder, 64 numbers for each picture, stays as it
is. The numbers are ours, for two CPU cores. The same on features that have learned nothing:
`--config.init_from=None`.

    vit-jax knn --config configs/mae_digits_linear_probe.py    # no training at all
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import base_config, load_config


def get_config() -> ConfigDict:
    """The recipe."""
    pretrained = load_config(Path(__file__).with_name("mae_digits.py"))
    config = base_config()
    config.total_epochs = 100
    config.init_from = "runs/mae_digits"
    config.init_changes.left_out = ("decoder/*",)
    config.init_changes.drawn = ("head/*",)
    config.objective = {"name": "linear_probe"}

    config.model.name = "vit_tiny_patch16_224"
    for key in ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads"):
        config.model[key] = pretrained.model[key]
    config.model.mlp_ratio = pretrained.model.mlp_ratio
    config.model.pos_embed = "sincos_2d_table"
    config.model.weight_init = "mae"  # without init_from: what pre-training starts from
    config.model.update(global_pool="avg", fc_norm=False)  # the norm is the encoder's own

    config.data = pretrained.data
    config.data.train_transform = "resize"

    config.optim.lr = 1e-2
    config.schedule.warmup_epochs = 5
    return config
