"""A small ViT on a folder of your own images.

    vit-jax train --config configs/image_folder.py --workdir runs/mine \
        --config.data.source=folder:PATH

`PATH` holds `train/<class>/*.jpg` and either `val/<class>/*.jpg` or `test/<class>/*.jpg` (where it
has both, add `--config.data.eval_split=val`), or only `<class>/*.jpg`: then a tenth of every class,
chosen by a fixed rule, is kept for evaluation (see vit_jax/data/folder.py). JPEG, PNG, WebP, GIF,
BMP, TIFF and PPM are read, of any size; the number of classes is taken from the folder.

What to change first:

- few images (under some ten thousand): more epochs, `--config.total_epochs=300`;
- small images: `--config.model.img_size=64 --config.model.patch_size=8`, and for pictures of that
  very size `--config.data.train_transform="random_shift(4)|flip"`;
- mirror images mean something else (text, traffic signs): a train_transform without `flip`;
- a larger machine: `--config.model.name=vit_small_patch16_224`, `--config.data.workers=` as many as
  there are cores, `--config.data.batch_size=512 --config.optim.lr=1e-3`;
- some files may be broken: `--config.data.on_error=skip` passes them over and counts them.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe: DeiT's (Touvron et al. 2021, table 9) without mixing and RandAugment."""
    config = base_config()
    config.total_epochs = 100  # DeiT: 300, on the 1.3 million images of ImageNet

    config.model.name = "vit_tiny_patch16_224"
    config.model.drop_path_rate = 0.1
    config.objective.label_smoothing = 0.1

    config.data.source = "folder:images"
    config.data.train_split = "train"
    config.data.eval_split = "eval"  # val or test, whichever the folder has
    config.data.batch_size = 128
    config.data.train_transform = "inception_crop(scale=(0.2, 1.0))|flip"  # DeiT: from 0.08
    config.data.eval_transform = "resize_small(crop_pct=0.875)|center_crop"  # 256, then 224
    config.data.workers = 2

    config.optim.name = "adamw"
    config.optim.lr = 2.5e-4  # DeiT: 5e-4 for every 512 images; twice that, for a short run
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0  # ours; DeiT has none
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5

    config.checkpoint.every_epochs = 5
    config.eval_every_epochs = 5
    return config
