"""ViT-B/16 on ImageNet-21k, as in the original paper (Dosovitskiy et al. 2021, table 3).

90 epochs, batch 4096, Adam with a linear schedule, dropout 0.1. Every picture has one label here,
so the loss is the softmax one; the authors' is the sigmoid one, from a bias of -10 in the head.
From a folder of images, `PATH/train/<class>/*` and `PATH/val/<class>/*`, 21,843 classes as in the
release of fall 2011. It has been checked here by building the model, the optimizer and the
schedule; training it takes accelerators and the data set.

    vit-jax train --config configs/vit_b16_i21k.py --workdir runs/vit_b16_i21k \
        --config.data.source=folder:PATH --config.data.workers=64

`configs/vit_b16_384_finetune.py` says how such a model is fine-tuned.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe; numbers are of table 3 and its caption unless another source is given."""
    config = base_config()
    config.total_epochs = 90

    config.model.name = "vit_base_patch16_224"
    config.model.representation_size = 768  # section 3.1: a hidden layer in the head
    config.model.proj_drop_rate = 0.1  # appendix B.1: after dense layers but those of q, k, v ...
    config.model.pos_drop_rate = 0.1  # ... and after the positions
    config.model.dtype = "bfloat16"
    config.model.scan = True

    config.data.source = "folder:data/imagenet21k"
    config.data.eval_split = "eval"
    config.data.batch_size = 4096
    config.data.eval_batch_size = 1024
    # Area and evaluation are of the authors' code (vision_transformer, input_pipeline.py).
    config.data.train_transform = "inception_crop(scale=(0.05, 1.0))|flip"
    config.data.eval_transform = "resize"
    config.data.interpolation = "bilinear"
    config.data.workers = 8

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.03
    config.optim.adamw.update(b1=0.9, b2=0.999)  # section 4.1
    config.schedule.name = "linear"
    config.schedule.warmup_steps = 10_000
    config.schedule.final_lr = 1e-5 / 1e-3  # vision_transformer, issue 2: "linear_end=1e-5"

    config.checkpoint.every_steps = 5000
    config.eval_every_epochs = 5
    return config
