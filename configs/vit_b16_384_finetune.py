"""A pretrained ViT-B/16 fine-tuned on ImageNet-1k at a higher resolution, 224 to 384 pixels.

Dosovitskiy et al. 2021, section 3.2 and appendix B.1.1, table 4: SGD with momentum, batch 512, no
weight decay; the position table is resized and the head drawn anew. It starts from the weights of
Steiner et al. 2021, which timm publishes: their authors report 85.49 % top-1 with this length and
rate (google-research/vision_transformer, README.md), with the middle of 448 pixels in evaluation.
It has been checked here by building the model, the optimizer and the schedule; training it takes
accelerators and the data set.

What differs: the position table is resized as in timm (bicubic) and not linearly, corner to corner
(vit_jax/checkpoint.py); as in timm, too, these weights run with the exact GELU. Pillow's bilinear
filter averages where it shrinks a picture, TensorFlow's does not.

    vit-jax train --config configs/vit_b16_384_finetune.py --workdir runs/vit_b16_384 \
        --config.data.data_dir=/data/tensorflow_datasets --config.data.workers=32

From a run of `configs/vit_b16_i21k.py`, whose head has a hidden layer:

    --config.init_from=runs/vit_b16_i21k --config.model.act_layer=gelu_tanh \
    --config.init_changes.left_out="('pre_logits/*',)" \
    --config.init_changes.hyper_parameters="('representation_size',)"
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe; numbers are of appendix B.1.1 unless another source is given.

    Files are of google-research/vision_transformer.
    """
    config = base_config()
    config.total_steps = 20_000  # table 4, ImageNet

    config.model.name = "vit_base_patch16_384"
    config.model.dtype = "bfloat16"
    config.model.scan = True
    config.init_from = "hf-hub:timm/vit_base_patch16_224.augreg_in21k"
    config.init_changes.resampled = ("pos_embed/*",)
    config.init_changes.drawn = ("head/*",)

    config.data.source = "tfds:imagenet2012"
    config.data.train_split = "train[:99%]"  # the last percent is kept for choosing: common.py
    config.data.eval_split = "validation"
    config.data.batch_size = 512
    # vit_jax/input_pipeline.py: area from 0.05; evaluation squeezes the whole picture.
    config.data.train_transform = "inception_crop(scale=(0.05, 1.0))|flip"
    config.data.eval_transform = "resize"
    config.data.interpolation = "bilinear"
    config.data.workers = 8

    config.optim.name = "sgd"
    config.optim.sgd.momentum = 0.9
    config.optim.sgd.accumulator_dtype = "bfloat16"  # vit_jax/train.py
    config.optim.lr = 0.03  # table 4: of 0.003, 0.01, 0.03, 0.06; vit_jax/configs/common.py
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 500  # vit_jax/configs/common.py
    config.tpu_topology = "v5e:4x8"  # ours: 16 images a chip

    config.checkpoint.every_steps = 1000
    config.eval_every_steps = 2000
    return config
