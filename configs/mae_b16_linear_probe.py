"""A linear probe of a masked autoencoder's ViT-B/16 on ImageNet-1k (He et al. 2022, appendix A.1).

The classifier alone is trained, on the class token, with a batch norm without scale and shift
before it: LARS, 90 epochs, batch 16384 (table 10). The paper's ViT-B of 1600 epochs reaches 68.0 %
top-1, says the authors' repository (facebookresearch/mae, FINETUNE.md; other files of it are
named). It has been checked here by building the model, the optimizer and the schedule; training it
takes accelerators and the data set.

What differs: their crop (util/crop.py) cuts off what does not fit into the picture; ours draws
again, as PyTorch's does.

    vit-jax train --config configs/mae_b16_linear_probe.py --workdir runs/mae_b16_probe \
        --config.init_from=runs/mae_b16 --config.data.data_dir=/data/tensorflow_datasets

`init_from` may also be what `vit-jax convert` made of the authors' `.pth`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import base_config


def get_config() -> ConfigDict:
    """The recipe."""
    config = base_config()
    config.total_epochs = 90
    config.init_from = "runs/mae_b16"  # of mae_b16_pretrain.py
    config.init_changes.left_out = ("decoder/*",)
    config.init_changes.drawn = ("head/*",)
    config.objective = {"name": "linear_probe"}

    config.model.name = "vit_base_patch16_224"
    config.model.pos_embed = "sincos_2d_table"  # as in pre-training
    config.model.dtype = "bfloat16"
    config.model.scan = True

    config.data.source = "tfds:imagenet2012"
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.batch_size = 16384
    config.data.eval_batch_size = 1024
    config.data.train_transform = "inception_crop(scale=(0.08, 1.0))|flip"  # main_linprobe.py
    config.data.eval_transform = "resize_small(0.875)|center_crop"  # 256, then 224
    config.data.interpolation = "bicubic"
    config.data.mean = (0.485, 0.456, 0.406)  # as in pre-training
    config.data.std = (0.229, 0.224, 0.225)
    config.data.workers = 8

    config.optim.name = "lars"  # util/lars.py; no weight decay
    config.optim.lr = 0.1 * 16384 / 256  # base rate times batch over 256
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.tpu_topology = "v5e:4x4"  # ours: 1024 images a chip

    config.checkpoint.every_epochs = 5
    config.eval_every_epochs = 5
    return config
