"""Swin-T on ImageNet-1k (Liu et al. 2021, appendix A2.1).

300 epochs, batch 1024, AdamW, the augmentation of DeiT without repeated augmentation and without a
moving average. The paper reports 81.3 % top-1. What the appendix leaves open is from the authors'
program (microsoft/Swin-Transformer, config.py; other files are named). It has been checked here by
building the model, the optimizer and the schedule; training it takes accelerators and the data set.

    vit-jax train --config configs/swin_t_i1k.py --workdir runs/swin_t \
        --config.data.data_dir=/data/tensorflow_datasets --config.data.workers=32
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("deit_b16_i1k.py"))
    config.model.name = "swin_tiny_patch4_window7_224"
    config.model.drop_path_rate = 0.2  # configs/swin/swin_tiny_patch4_window7_224.yaml
    config.data.repeats = 1  # data/build.py: a plain sampler

    config.optim.lr = 5e-4 * 1024 / 512  # BASE_LR times batch over 512 (main.py)
    config.optim.weight_decay = 0.05  # optimizer.py: not of vectors and tables of positions
    config.optim.clip_norm = 5.0  # CLIP_GRAD; the appendix: 1
    config.schedule.warmup_epochs = 20  # WARMUP_PREFIX: the cosine begins after it, as here
    config.schedule.initial_lr = 5e-7 / 5e-4  # WARMUP_LR over BASE_LR
    config.schedule.final_lr = 5e-6 / 5e-4  # MIN_LR
    config.tpu_topology = "v5e:4x8"  # ours: 32 images a chip
    return config
