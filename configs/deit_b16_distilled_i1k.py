"""DeiT-B with a distillation token on ImageNet-1k (Touvron et al. 2021, section 5.2).

As `configs/deit_b16_i1k.py`, and half of the loss compares the second head with the guess of a
convolutional teacher (hard distillation, eq. 3). The paper reports 83.4 % top-1 with a RegNetY-16GF
of 82.9 % as the teacher; kind and weight are in the command of the authors' README_deit.md and the
defaults of their main.py (facebookresearch/deit). This library has BiT's ResNets instead: give the
folder that
`vit-jax convert` writes, or a run that trained one; or any other teacher as a function,
`--config.objective.teacher=python:MODULE:FUNCTION`.

    vit-jax train --config configs/deit_b16_distilled_i1k.py --workdir runs/deit_b16_distilled \
        --config.objective.teacher=runs/teacher
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.training.config import load_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = load_config(Path(__file__).with_name("deit_b16_i1k.py"))
    config.model.name = "deit_base_distilled_patch16_224"
    # timm 0.3.2 spares class token and positions (no_weight_decay), models.py adds nothing.
    config.optim.weight_decays = (("dist_token", config.optim.weight_decay),)
    config.objective.name = "distillation"
    config.objective.teacher = "runs/teacher"
    config.objective.teacher_dtype = "bfloat16"
    config.objective.kind = "hard"  # --distillation-type
    config.objective.alpha = 0.5  # --distillation-alpha
    config.tpu_topology = "v5e:4x4"  # ours: 64 images a chip
    return config
