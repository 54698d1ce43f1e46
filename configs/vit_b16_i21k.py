"""ViT-B/16 on ImageNet-21k, as in the original paper (Dosovitskiy et al. 2021, table 3).

90 epochs, batch 4096, Adam with a linear schedule, dropout 0.1, and the sigmoid loss that the
authors' code has for this data set: every class is a question by itself. From a folder of images,
`PATH/train/<class>/*` and `PATH/val/<class>/*`, 21,843 classes as in the release of fall 2011; so
every picture has one label here, and what else it shows counts as absent. It has been checked here
by building the model, the optimizer and the schedule; training it takes accelerators and the data
set.

    vit-jax train --config configs/vit_b16_i21k.py --workdir runs/vit_b16_i21k \
        --config.data.source=folder:PATH --config.data.workers=64

`configs/vit_b16_384_finetune.py` says how such a model is fine-tuned.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe; numbers are of table 3 and its caption unless another source is given.

    Files are of google-research/vision_transformer (vit_jax/...) and of the same authors'
    google-research/big_vision (big_vision/...), which trains on ImageNet-21k.
    """
    config = base_config()
    config.total_epochs = 90

    config.model.name = "vit_base_patch16_224"
    config.model.act_layer = "gelu_tanh"  # vit_jax/models_vit.py: Flax's nn.gelu, approximate
    config.model.representation_size = 768  # section 3.1: a hidden layer in the head
    config.model.head_bias_init = -10.0  # big_vision/configs/vit_i21k.py, init_head_bias
    config.model.proj_drop_rate = 0.1  # appendix B.1: after dense layers but those of q, k, v ...
    config.model.pos_drop_rate = 0.1  # ... and after the positions
    config.model.dtype = "bfloat16"
    config.model.scan = True

    config.objective.loss = "sigmoid"  # big_vision/configs/vit_i21k.py
    config.objective.class_reduction = "sum"  # big_vision/utils.py, sigmoid_xent

    config.data.source = "folder:data/imagenet21k"
    config.data.eval_split = "eval"
    config.data.batch_size = 4096
    config.data.eval_batch_size = 1024
    # vit_jax/input_pipeline.py, big_vision/pp/ops_image.py: area from 0.05, bilinear.
    config.data.train_transform = "inception_crop(scale=(0.05, 1.0))|flip"
    # big_vision/configs/vit_i21k.py: 256, then 224 (there resized by areas).
    config.data.eval_transform = "resize_small(crop_pct=0.875)|center_crop"
    config.data.interpolation = "bilinear"
    config.data.workers = 8

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.03
    config.optim.adamw.update(b1=0.9, b2=0.999)  # section 4.1
    config.schedule.name = "linear"
    config.schedule.warmup_steps = 10_000
    config.schedule.final_lr = 1e-5 / 1e-3  # vit_jax/utils.py: linear_end
    config.tpu_topology = "v5e:8x8"  # ours: 64 images a chip

    config.checkpoint.every_steps = 5000
    config.eval_every_epochs = 5
    return config
