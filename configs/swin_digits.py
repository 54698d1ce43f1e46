"""A small Swin Transformer on the embedded digits.

    vit-jax train --config configs/swin_digits.py --workdir runs/swin_digits

Patches of 2x2: windows of 2x2 on a map of 4x4, every second time moved, and of 2x2. The numbers are
ours, chosen for two CPU cores.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("digits.py"))
    config.total_epochs = 120
    config.model = ConfigDict({"name": "swin_tiny_patch4_window7_224", "num_classes": None})
    config.model.update(img_size=8, patch_size=2, in_chans=1, window_size=2)
    config.model.update(embed_dim=64, depths=(2, 2), num_heads=(2, 4), mlp_ratio=2.0)
    config.model.update(drop_path_rate=0.1)
    config.data.mean = config.data.std = (0.5,)  # the model's own are of three colours
    config.optim.lr = 3e-3
    config.schedule.warmup_epochs = 8
    config.eval_every_epochs = 20
    config.checkpoint.every_epochs = 20
    return config
