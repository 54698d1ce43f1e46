"""ViT-B/16 on ImageNet-21k, after "How to train your ViT?" (Steiner et al. 2021).

300 epochs with the augmentation that the paper calls medium1, weight decay 0.1 and neither dropout
nor stochastic depth: the settings of the B/16 that the authors recommend to start from, which is in
its name: B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0 (google-research/
vision_transformer, README.md). Their later recipe takes light2, a RandAugment of magnitude 10, and
the mean of patches (google-research/big_vision, big_vision/configs/vit_i21k.py). It has been
checked here by building the model, the optimizer and the schedule; training it takes accelerators
and the data set.

    vit-jax train --config configs/augreg_b16_i21k.py --workdir runs/augreg_b16 \
        --config.data.source=folder:PATH --config.data.workers=64
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe: what differs from the original ViT's. Sections are of Steiner et al."""
    config = load_config(Path(__file__).with_name("vit_b16_i21k.py"))
    config.total_epochs = 300  # section 3.4; 30 in the shorter runs

    config.model.representation_size = None  # section 3.2: no hidden layer in the head
    config.model.update(proj_drop_rate=0.0, pos_drop_rate=0.0)  # section 3.3: 0 or 0.1

    # Medium1 of section 3.3: RandAugment(2, 15), mixup(0.2). timm's RandAugment makes each change
    # with a probability of 0.5 and stops at 10 unless it is told otherwise; the authors' does not
    # (big_vision/pp/archive/autoaugment.py), and has Cutout as a sixteenth change.
    config.data.train_transform = (
        "inception_crop(scale=(0.05, 1.0))|flip|rand_augment('m15-mmax15-n2-p1.0')"
    )
    config.objective.mixup_alpha = 0.2

    config.optim.adamw.mu_dtype = "bfloat16"  # big_vision/configs/vit_i21k.py
    config.optim.weight_decay = 0.1  # section 3.3: 0.03 or 0.1; there 1e-4, the rate multiplied in
    config.optim.clip_norm = 1.0  # section 3.4
    config.schedule.name = "cosine"  # section 3.4
    config.schedule.final_lr = 0.0
    config.tpu_topology = "v5e:8x8"  # ours: 64 images a chip
    return config
