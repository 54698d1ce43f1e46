"""Tiny Swin Transformers of both versions, stored in the layouts that users hold."""

from tests.models import swin_oracle as oracle

torch, transformers = oracle.torch, oracle.transformers
timm = oracle.timm
SIZES = dict(img_size=32, window_size=4, embed_dim=8, depths=(2, 1), num_heads=(2, 4))
VERSIONS = {1: SIZES, 2: dict(SIZES, pretrained_window_sizes=(3, 2))}
TIMM = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}
TITLES = {1: "Swin", 2: "Swinv2"}


def transformers_folder(path, version, head="ForImageClassification", **options):
    choices = {**VERSIONS[version], **options}
    choices["image_size"] = choices.pop("img_size")
    config = getattr(transformers, f"{TITLES[version]}Config")(**choices, num_labels=5)
    theirs = oracle.randomize(getattr(transformers, TITLES[version] + head)(config))
    theirs = oracle.exact(theirs)
    theirs.save_pretrained(path)
    return theirs


def timm_model(version, **options):
    options = {**VERSIONS[version], "num_classes": 5, **options}
    return oracle.exact(oracle.randomize(timm.create_model(TIMM[version], **options))), options


def timm_folder(path, version, **options):
    theirs, options = timm_model(version, **options)
    kept = {k: v for k, v in options.items() if k != "num_classes"}
    timm.models.save_for_hf(theirs, path, model_args=kept, safe_serialization=True)
    return theirs


def original_names(state, version):
    """timm's names as the authors have them, with the buffers that their files hold."""
    renamed = {}
    for name, tensor in state.items():
        parts = name.replace("head.fc.", "head.").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts)] = tensor
    renamed["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16).long()
    if version == 2:
        renamed["layers.0.blocks.0.attn.relative_coords_table"] = torch.zeros(1, 7, 7, 2)
    return renamed
