"""ViT-S/16 on ImageNet-1k, after "Better plain ViT baselines" (Beyer et al. 2022).

The paper's recipe: 90 epochs, batch 1024, Inception crops and flips, fixed 2-D sin-cos positions,
mean of patches, AdamW. It reaches 76.5 % top-1 with RandAugment(2, 10) and mixup(0.2) on top,
which this file does not use; its ablation without either is about a point and a half lower
(table 1). Not run here: this machine has no ImageNet.

    vit-jax train --config configs/vit_s16_i1k.py --workdir gs://bucket/vit_s16 \
        --config.data.data_dir=/data/tensorflow_datasets --config.data.workers=32
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = base_config()
    config.total_epochs = 90

    config.model.name = "vit_small_patch16_224"
    config.model.pos_embed = "sincos_2d"  # section 2: as good as learned, and better early on
    config.model.global_pool = "avg"  # section 2: mean of patches, no class token
    config.model.class_token = False
    config.model.dtype = "bfloat16"

    config.data.source = "tfds:imagenet2012"
    config.data.train_split = "train[:99%]"  # the last percent is for choosing, section 3
    config.data.eval_split = "validation"
    config.data.batch_size = 1024  # section 2, "batch size 1024 rather than 4096"
    config.data.train_transform = "inception_crop(scale=(0.05, 1.0))|flip"  # area as in the code
    config.data.eval_transform = "resize_small(crop_pct=0.875)|center_crop"  # 256, then 224
    config.data.workers = 8
    config.data.interpolation = "bilinear"  # TensorFlow's resize

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.1  # 1e-4 independent of the rate of 1e-3: ours is multiplied
    config.optim.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 10_000

    config.checkpoint.every_steps = 1000
    config.log_every_steps = 50
    config.eval_every_epochs = 5
    return config
