"""Masked autoencoding of ImageNet-1k with a ViT-B/16 (He et al. 2022, appendix A, table 8).

800 epochs, batch 4096, three quarters of the patches masked, random crops and flips alone. The
labels are not looked at. The command is in the authors' PRETRAIN.md (facebookresearch/mae; other
files of it are named). It has been checked here by building the model, the optimizer and the
schedule; training it takes accelerators and the data set. Fine-tuned, the paper's ViT-B of 1600
epochs reaches 83.6 % top-1 (table 3).

    vit-jax train --config configs/mae_b16_pretrain.py --workdir runs/mae_b16 \
        --config.data.data_dir=/data/tensorflow_datasets --config.data.workers=32
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = base_config()
    config.total_epochs = 800  # appendix A.1: the length of the ablations; 1600 for the best models

    config.model.name = "mae_vit_base_patch16"  # decoder: 8 blocks, 512 wide (section 4.1)
    config.model.mask_ratio = 0.75  # section 4.1
    config.model.dtype = "bfloat16"
    config.model.scan = True
    config.objective = {"name": "mae", "norm_pix_loss": True}  # table 1d: pixels with normalisation

    config.data.source = "tfds:imagenet2012"
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.batch_size = 4096
    config.data.eval_batch_size = 1024
    # main_pretrain.py: area and interpolation; the paper says "RandomResizedCrop".
    config.data.train_transform = "inception_crop(scale=(0.2, 1.0))|flip"
    config.data.interpolation = "bicubic"
    config.data.workers = 8

    config.optim.name = "adamw"
    config.optim.lr = 1.5e-4 * 4096 / 256  # base rate times batch over 256
    config.optim.adamw.b2 = 0.95
    config.optim.weight_decay = 0.05
    # main_pretrain.py keeps timm's decay from vectors alone: it reaches both tokens.
    config.optim.weight_decays = (("cls_token", 0.05), ("decoder/mask_token", 0.05))
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 40
    config.tpu_topology = "v5e:8x8"  # ours: 64 images a chip

    config.checkpoint.every_epochs = 10
    config.checkpoint.best_metric = "loss"
    config.checkpoint.best_mode = "min"
    config.eval_every_epochs = 20
    return config
