"""A small Swin Transformer on the embedded digits.

    vit-jax train --config configs/swin_digits.py --workdir runs/swin_digits

Every pixel is a patch: windows of 4x4 on maps of 8x8, every second time moved, and of 4x4. The
numbers are ours, chosen for two CPU cores.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("digits.py"))
    config.total_epochs = 60
    config.model = ConfigDict({"name": "swin_tiny_patch4_window7_224", "num_classes": None})
    config.model.update(img_size=8, patch_size=1, in_chans=1, window_size=4)
    config.model.update(embed_dim=32, depths=(2, 2), num_heads=(2, 4), mlp_ratio=2.0)
    config.model.update(drop_path_rate=0.1)
    config.data.mean = config.data.std = (0.5,)  # the model's own are of three colours
    config.optim.lr = 3e-3
    config.schedule.warmup_epochs = 5
    config.eval_every_epochs = 15
    config.checkpoint.every_epochs = 15
    return config
