"""Small models of independent implementations, stored in the layouts that users hold.

A case is a function from a folder and a dtype to what it built there: the file, and the PyTorch
module with the same weights. Every weight is drawn, in the dtype in which it is stored, so that
nothing is rounded on the way and no zero or one hides an error.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_jax.convert.torch_libraries import import_library
from vit_jax.models import VisionTransformer, registry

torch = pytest.importorskip("torch")
for _library in ("timm", "transformers"):
    if importlib.util.find_spec(_library) is None:  # importing them may need `import_library`
        pytest.skip(f"{_library} is not installed", allow_module_level=True)
nn, save_file = torch.nn, pytest.importorskip("safetensors.torch").save_file
transformers = import_library("transformers", "this test")
timm = import_library("timm", "this test")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# One geometry for all, as far as the layout allows: heads are 64 wide in files that do not say so.
WIDTH, HEADS, DEPTH, HIDDEN, PATCH = 128, 2, 2, 192, 8
WIDE, SQUARE = (16, 24), 16
CLASSES = 5
TIMM = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=1.5, patch_size=PATCH)
OURS = dict(TIMM, num_classes=CLASSES, img_size=WIDE)
HF = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    intermediate_size=HIDDEN,
    patch_size=PATCH,
)

# Names for files that do not say what they are.
TINY: dict[str, dict[str, Any]] = {
    "tiny_vit": OURS,
    "tiny_vit_quickgelu": dict(OURS, act_layer="quick_gelu"),
    "tiny_dino": dict(OURS, num_classes=0),
    "tiny_distilled": dict(OURS, dist_token=True),
    "tiny_hybrid": dict(OURS, img_size=64, patch_size=1, resnet_layers=(2, 2, 2, 2)),
    "tiny_clip": dict(
        OURS,
        img_size=SQUARE,
        pre_norm=True,
        patch_bias=False,
        head_bias=False,
        norm_eps=1e-5,
    ),
}


TINY["tiny_pre_logits"] = dict(OURS, img_size=SQUARE, act_layer="gelu_tanh", representation_size=96)


@pytest.fixture(autouse=True)
def tiny_names(monkeypatch):
    for name, options in TINY.items():
        spec = registry.ModelSpec(VisionTransformer, options, registry.Preprocessing())
        monkeypatch.setitem(registry._MODELS, name, spec)


@dataclasses.dataclass(frozen=True)
class Built:
    """A stored model.

    Attributes:
        path: what a user would give to `load`.
        theirs: the PyTorch module with the same weights.
        library: "timm", "transformers" or "openai".
        options: of `load`.
    """

    path: Path
    theirs: nn.Module
    library: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Case = Callable[[Path, torch.dtype], Built]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def randomize(model: nn.Module, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """Draws every parameter: norms' scales around 1, the rest around 0."""
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            fan_in = math.prod(p.shape[1:]) if p.ndim > 1 else 1
            is_norm = any(part in name for part in ("norm", "ln_")) and name.endswith("weight")
            p.copy_(float(is_norm) + noise * (0.3 if fan_in == 1 else fan_in**-0.5))
    return model


# Transformers


def hugging_face(class_name: str, config_name: str, **options: Any) -> Callable[..., nn.Module]:
    config = getattr(transformers, config_name)
    return lambda: getattr(transformers, class_name)(config(**{**HF, **options}))


def saved(make: Callable[[], nn.Module]) -> Case:
    """A folder as `save_pretrained` writes it."""

    def build(folder: Path, dtype: torch.dtype) -> Built:
        theirs = randomize(make(), dtype)
        theirs.save_pretrained(folder)
        return Built(folder, theirs, "transformers")

    return build


TEXT = dict(
    hidden_size=WIDTH,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=50,
    bos_token_id=0,
    eos_token_id=1,
)
CLIP_VISION = dict(HF, image_size=SQUARE, projection_dim=CLASSES)
SIGLIP_VISION = dict(HF, image_size=SQUARE)
DINO = dict(image_size=SQUARE, mlp_ratio=2, layerscale_value=0.7)
FOLDERS = {
    "vit_classifier": hugging_face(
        "ViTForImageClassification", "ViTConfig", image_size=WIDE, num_labels=CLASSES
    ),
    "vit_like_timm": hugging_face(
        "ViTForImageClassification",
        "ViTConfig",
        image_size=WIDE,
        num_labels=CLASSES,
        layer_norm_eps=1e-6,
        hidden_act="gelu_pytorch_tanh",
        qkv_bias=False,
    ),
    "vit_pooler": hugging_face("ViTModel", "ViTConfig", image_size=WIDE, pooler_output_size=96),
    "deit_classifier": hugging_face(
        "DeiTForImageClassification", "DeiTConfig", image_size=WIDE, num_labels=CLASSES
    ),
    "deit_with_teacher": hugging_face(
        "DeiTForImageClassificationWithTeacher", "DeiTConfig", image_size=WIDE, num_labels=CLASSES
    ),
    "dinov2_model": hugging_face("Dinov2Model", "Dinov2Config", **DINO),
    "dinov2_swiglu_classifier": hugging_face(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        **DINO,
        use_swiglu_ffn=True,
        num_labels=CLASSES,
    ),
    "dinov2_registers": hugging_face(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **DINO, num_register_tokens=3
    ),
    "clip_vision": hugging_face("CLIPVisionModel", "CLIPVisionConfig", **CLIP_VISION),
    "clip_vision_projection": hugging_face(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", **CLIP_VISION
    ),
    "siglip_vision": hugging_face("SiglipVisionModel", "SiglipVisionConfig", **SIGLIP_VISION),
    "siglip_vision_headless": hugging_face(
        "SiglipVisionModel", "SiglipVisionConfig", **SIGLIP_VISION, vision_use_head=False
    ),
    "clip_two_towers": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=CLIP_VISION, text_config=TEXT, projection_dim=CLASSES)
    ),
    "siglip_two_towers": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=SIGLIP_VISION, text_config=TEXT)
    ),
}
CASES.update({name: saved(make) for name, make in FOLDERS.items()})


@case
def vit_names_in_memory(folder: Path, dtype: torch.dtype) -> Built:
    """`torch.save(model.state_dict())`: names that Transformers 5 has in memory alone."""
    theirs = randomize(FOLDERS["vit_classifier"](), dtype)
    return _state_dict(folder, theirs)


@case
def dinov2_names_in_memory(folder: Path, dtype: torch.dtype) -> Built:
    theirs = randomize(FOLDERS["dinov2_swiglu_classifier"](), dtype)
    return _state_dict(folder, theirs)


def _state_dict(folder: Path, theirs: nn.Module) -> Built:
    theirs.config.architectures = [type(theirs).__name__]
    theirs.config.save_pretrained(folder)
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    return Built(folder, theirs, "transformers")


def prefixed(name: str) -> Case:
    """A tower alone as Transformers 4 wrote it: each name begins with "vision_model."."""

    def build(folder: Path, dtype: torch.dtype) -> Built:
        theirs = randomize(FOLDERS[name](), dtype)
        theirs.save_pretrained(folder)
        tensors = {f"vision_model.{k}": v for k, v in theirs.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return Built(folder, theirs, "transformers")

    return build


CASES["clip_vision_prefixed"] = prefixed("clip_vision")
CASES["siglip_vision_prefixed"] = prefixed("siglip_vision")


# timm, and original repositories whose names timm keeps


def timm_model(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, **{**TIMM, "img_size": WIDE, "num_classes": CLASSES, **options})


def published(name: str, **options: Any) -> Case:
    """A folder as timm's `save_for_hf` writes it."""
    arguments = {**TIMM, "img_size": WIDE, "num_classes": CLASSES, **options}

    def build(folder: Path, dtype: torch.dtype) -> Built:
        theirs = randomize(timm.create_model(name, **arguments), dtype)
        kept = {k: v for k, v in arguments.items() if k != "num_classes"}
        timm.models.save_for_hf(theirs, folder, model_args=kept, safe_serialization=True)
        return Built(folder, theirs, "timm")

    return build


HYBRID = dict(img_size=64, patch_size=1)
SQUARE_TOWER = dict(img_size=SQUARE, num_classes=0)
CASES.update(
    timm_vit=published("vit_base_patch16_224"),
    timm_vit_many_choices=published(
        "vit_base_patch16_224",
        qk_norm=True,
        init_values=0.1,
        class_token=False,
        global_pool="avg",
        act_layer="gelu_tanh",
        reg_tokens=2,
    ),
    timm_distilled=published("deit_base_distilled_patch16_224"),
    timm_deit3=published("deit3_base_patch16_224"),
    timm_hybrid=published("vit_small_r26_s32_224", act_layer="gelu_tanh", **HYBRID),
    timm_hybrid_stem=published("vit_tiny_r_s16_p8_224", img_size=64, patch_size=4),
    timm_dinov2=published(
        "vit_small_patch14_dinov2", img_size=SQUARE, mlp_ratio=2.0, num_classes=0
    ),
    timm_dinov2_registers=published("vit_small_patch14_reg4_dinov2", num_classes=0),
    timm_dinov2_swiglu=published("vit_giant_patch14_dinov2", **SQUARE_TOWER, mlp_ratio=2.75),
    timm_clip=published("vit_base_patch16_clip_224"),
    timm_clip_quickgelu=published("vit_base_patch16_clip_quickgelu_224"),
    timm_siglip=published("vit_base_patch16_siglip_224", num_classes=0),
    timm_siglip_tanh=published("vit_base_patch32_siglip_256", **SQUARE_TOWER),
    timm_siglip_gap=published("vit_base_patch16_siglip_gap_224", num_classes=0),
    timm_22b=published("vit_base_patch16_xp_224"),
)


@case
def dino_backbone(folder: Path, dtype: torch.dtype) -> Built:
    """DINO's `.pth` of the backbone alone."""
    theirs = randomize(timm_model("vit_base_patch16_224", num_classes=0), dtype)
    torch.save(theirs.state_dict(), folder / "dino_pretrain.pth")
    return Built(folder / "dino_pretrain.pth", theirs, "timm", dict(model="tiny_dino"))


@case
def dino_training(folder: Path, dtype: torch.dtype) -> Built:
    """DINO's checkpoint of a training run: student and teacher, each with a projection head."""
    theirs = randomize(timm_model("vit_base_patch16_224", num_classes=0), dtype)
    student = randomize(timm_model("vit_base_patch16_224", num_classes=0), dtype, seed=1)
    head = {
        "head.mlp.0.weight": torch.ones(4, WIDTH),
        "head.mlp.0.bias": torch.ones(4),
        "head.last_layer.weight_g": torch.ones(9, 1),
        "head.last_layer.weight_v": torch.ones(9, 4),
    }
    backbone = {f"backbone.{k}": v for k, v in theirs.state_dict().items()}
    other = {f"backbone.{k}": v for k, v in student.state_dict().items()}
    stored = {
        "student": {f"module.{k}": v for k, v in {**other, **head}.items()},
        "teacher": {**backbone, **head},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.1),
    }
    torch.save(stored, folder / "full_checkpoint.pth")
    options = dict(model="tiny_dino", key="teacher")
    return Built(folder / "full_checkpoint.pth", theirs, "timm", options)


def original_deit(name: str, model: str) -> Case:
    """DeiT's `.pth`: {"model": ...}, with the arguments of the training script."""

    def build(folder: Path, dtype: torch.dtype) -> Built:
        theirs = randomize(timm_model(name), dtype)
        stored = {"model": theirs.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}
        torch.save(stored, folder / "deit.pth")
        return Built(folder / "deit.pth", theirs, "timm", dict(model=model))

    return build


CASES["original_deit"] = original_deit("deit_base_patch16_224", "tiny_vit")
CASES["original_deit_distilled"] = original_deit(
    "deit_base_distilled_patch16_224", "tiny_distilled"
)


@case
def original_deit3(folder: Path, dtype: torch.dtype) -> Built:
    """DeiT III's `.pth`: LayerScale is `gamma_1` and `gamma_2`; the file tells everything else."""
    theirs = randomize(timm_model("deit3_base_patch16_224", img_size=SQUARE), dtype)
    tensors = {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
        for k, v in theirs.state_dict().items()
    }
    torch.save({"model": tensors}, folder / "deit_3.pth")
    return Built(folder / "deit_3.pth", theirs, "timm")


def original_dinov2(chunked: bool, mlp_ratio: float) -> Case:
    """DINOv2's `.pth` without registers: a mask token, gates `w12` and `w3`."""

    def build(folder: Path, dtype: torch.dtype) -> Built:
        gated = mlp_ratio == 2.75
        name = "vit_giant_patch14_dinov2" if gated else "vit_small_patch14_dinov2"
        options = dict(img_size=SQUARE, num_classes=0, mlp_ratio=mlp_ratio)
        theirs = randomize(timm_model(name, **options), dtype)
        tensors = {"mask_token": torch.zeros(1, WIDTH)}
        for key, value in theirs.state_dict().items():
            if gated:
                key = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            if chunked and key.startswith("blocks."):
                key = f"blocks.{key.split('.')[1]}.{key.removeprefix('blocks.')}"
            tensors[key] = value
        torch.save(tensors, folder / "dinov2.pth")
        return Built(folder / "dinov2.pth", theirs, "timm")

    return build


CASES["original_dinov2"] = original_dinov2(False, 2.0)
CASES["original_dinov2_swiglu_in_chunks"] = original_dinov2(True, 2.75)


@case
def original_dinov2_registers(folder: Path, dtype: torch.dtype) -> Built:
    """DINOv2's `.pth` with registers, from Transformers' model: both give them no positions."""
    make = hugging_face(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        **DINO,
        num_register_tokens=3,
    )
    theirs = randomize(make(), dtype)
    found = {k.removeprefix("embeddings."): v for k, v in theirs.state_dict().items()}
    tensors = {
        "cls_token": found["cls_token"],
        "mask_token": found["mask_token"],
        "register_tokens": found["register_tokens"],
        "pos_embed": found["position_embeddings"],
        "patch_embed.proj.weight": found["patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": found["patch_embeddings.projection.bias"],
        "norm.weight": found["layernorm.weight"],
        "norm.bias": found["layernorm.bias"],
    }
    blocks = sorted({k.split(".")[2] for k in found if k.startswith("encoder.layer.")})
    for i in blocks:
        parts = {k: v for k, v in found.items() if k.startswith(f"encoder.layer.{i}.")}
        parts = {k.removeprefix(f"encoder.layer.{i}."): v for k, v in parts.items()}
        block = f"blocks.{i}."
        for kind in ("weight", "bias"):
            packed = [parts[f"attention.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"{block}attn.qkv.{kind}"] = torch.cat(packed)
            tensors[f"{block}attn.proj.{kind}"] = parts[f"attention.o_proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                tensors[f"{block}{name}.{kind}"] = parts[f"{name}.{kind}"]
        for scale in ("1", "2"):
            tensors[f"{block}ls{scale}.gamma"] = parts[f"layer_scale{scale}.lambda1"]
    torch.save(tensors, folder / "dinov2_reg.pth")
    return Built(folder / "dinov2_reg.pth", theirs, "transformers")


# Google's .npz


def block_shapes(attention: str, norm2: str, mlp: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{attention}/out/kernel": (HEADS, WIDTH // HEADS, WIDTH),
        f"{attention}/out/bias": (WIDTH,),
        f"{mlp}/Dense_0/kernel": (WIDTH, HIDDEN),
        f"{mlp}/Dense_0/bias": (HIDDEN,),
        f"{mlp}/Dense_1/kernel": (HIDDEN, WIDTH),
        f"{mlp}/Dense_1/bias": (WIDTH,),
    }
    for part in ("query", "key", "value"):
        shapes[f"{attention}/{part}/kernel"] = (WIDTH, HEADS, WIDTH // HEADS)
        shapes[f"{attention}/{part}/bias"] = (HEADS, WIDTH // HEADS)
    for norm in ("LayerNorm_0", norm2):
        shapes |= {f"{norm}/scale": (WIDTH,), f"{norm}/bias": (WIDTH,)}
    return shapes


def encoder_shapes(block: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes = {
        f"Transformer/encoderblock_{i}/{name}": shape
        for i in range(DEPTH)
        for name, shape in block.items()
    }
    norm = "Transformer/encoder_norm"
    return {**shapes, f"{norm}/scale": (WIDTH,), f"{norm}/bias": (WIDTH,)}


def augreg_shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original vision_transformer, without its patch embedding."""
    block = block_shapes("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    return {
        **encoder_shapes(block),
        "cls": (1, 1, WIDTH),
        "Transformer/posembed_input/pos_embedding": (1, tokens + 1, WIDTH),
        "head/kernel": (WIDTH, CLASSES),
        "head/bias": (CLASSES,),
    }


def patch_shapes(channels: int, patch: int) -> dict[str, tuple[int, ...]]:
    return {"embedding/kernel": (patch, patch, channels, WIDTH), "embedding/bias": (WIDTH,)}


def resnet_shapes(layers: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The ResNet of a hybrid, whose norms are stored as `(1, 1, 1, c)`."""

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/scale": (1, 1, 1, width), f"{name}/bias": (1, 1, 1, width)}

    shapes = {"conv_root/kernel": (7, 7, 3, 64), **norm("gn_root", 64)}
    width_in = 64
    for i, depth in enumerate(layers):
        middle, width = 64 * 2**i, 256 * 2**i
        for j in range(depth):
            unit = f"block{i + 1}/unit{j + 1}/"
            kernels = {1: (1, 1, width_in, middle), 2: (3, 3, middle, middle)}
            kernels[3] = (1, 1, middle, width)
            for k, shape in kernels.items():
                shapes[f"{unit}conv{k}/kernel"] = shape
                shapes |= norm(f"{unit}gn{k}", shape[-1])
            if j == 0:
                shapes[f"{unit}conv_proj/kernel"] = (1, 1, width_in, width)
                shapes |= norm(f"{unit}gn_proj", width)
            width_in = width
    return shapes


def big_vision_shapes(tokens: int, pool: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of big_vision, pooled by "map", "gap" or "tok"."""
    block = block_shapes("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    shapes = {**encoder_shapes(block), **patch_shapes(3, PATCH)}
    shapes |= {"pos_embedding": (1, tokens, WIDTH)}
    if pool == "tok":
        shapes["cls"] = (1, 1, WIDTH)
    if pool == "map":
        attention = "MultiHeadDotProductAttention_0"
        head = {k: v for k, v in block.items() if not k.startswith("LayerNorm_1")}
        shapes |= {f"MAPHead_0/{k}": v for k, v in head.items()}
        assert f"MAPHead_0/{attention}/query/kernel" in shapes
        shapes["MAPHead_0/probe"] = (1, 1, WIDTH)
    else:
        shapes |= {"head/kernel": (WIDTH, CLASSES), "head/bias": (CLASSES,)}
    return shapes


def drawn(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Arrays of these shapes, in float32 with numbers that `dtype` holds."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[:-1]) if name.endswith("kernel") else 1
        noise = rng.normal(size=shape) * (0.3 if fan_in == 1 else fan_in**-0.5)
        array = torch.from_numpy(noise + name.endswith("scale")).to(dtype)
        found[name] = array.float().numpy()
    return found


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> None:
    """Stores arrays as big_vision does; NumPy has no bfloat16, so that becomes void."""
    if dtype == torch.bfloat16:
        stored = {k: torch.from_numpy(v).to(dtype).view(torch.int16) for k, v in arrays.items()}
        np.savez(path, **{k: v.numpy().view("V2") for k, v in stored.items()})
    else:
        np.savez(path, **{k: torch.from_numpy(v).to(dtype).numpy() for k, v in arrays.items()})


def google(
    shapes: Mapping[str, tuple[int, ...]],
    prefix: str,
    timm_name: str,
    arguments: Mapping[str, Any],
    beside: Mapping[str, tuple[int, ...]] | None = None,
    scanned: bool = False,
    stored: torch.dtype | None = None,
    **options: Any,
) -> Case:
    """An `.npz` file; timm's own reader loads it into timm's model.

    Args:
        shapes: of the image tower.
        prefix: in front of their names.
        timm_name: the model of timm.
        arguments: of it.
        beside: other arrays in the file.
        scanned: the blocks' arrays are stacked.
        stored: the dtype of the file; timm gets the same numbers in float32.
        **options: of `load`.
    """

    def build(folder: Path, dtype: torch.dtype) -> Built:
        arrays = {prefix + k: v for k, v in drawn(shapes, stored or dtype).items()}
        arrays |= drawn(beside or {}, stored or dtype)
        if scanned:
            arrays = stack_blocks(arrays)
        write_npz(folder / "model.npz", arrays, stored or dtype)
        np.savez(folder / "float32.npz", **arrays)
        theirs = timm_model(timm_name, act_layer="gelu_tanh", **arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.load_pretrained(str(folder / "float32.npz"))
        return Built(folder / "model.npz", theirs.eval(), "timm", options)

    return build


def stack_blocks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found, stacks = {}, {}
    for name, array in arrays.items():
        front, mark, rest = name.partition("/encoderblock_")
        if mark:
            stacks.setdefault(f"{front}/encoderblock/{rest.partition('/')[2]}", []).append(array)
        else:
            found[name] = array
    return found | {name: np.stack(parts) for name, parts in stacks.items()}


SQUARE_TOKENS = (SQUARE // PATCH) ** 2
GAP = dict(img_size=SQUARE, class_token=False, global_pool="avg", fc_norm=False)
TEXT_TOWER = {
    "params/txt/Encoder_0/encoder_norm/scale": (WIDTH,),
    "params/txt/pos_embedding": (1, 4, WIDTH),
    "params/t": (1,),
    "params/b": (1,),
}
PLAIN = "vit_base_patch16_224"
SIGLIP = "vit_base_patch16_siglip_224"
CASES.update(
    augreg=google(
        {**augreg_shapes(SQUARE_TOKENS), **patch_shapes(3, PATCH)},
        "",
        PLAIN,
        dict(img_size=SQUARE),
    ),
    augreg_with_optimizer_prefix=google(
        {**augreg_shapes(SQUARE_TOKENS), **patch_shapes(3, PATCH)},
        "opt/target/",
        PLAIN,
        dict(img_size=SQUARE),
    ),
    augreg_hybrid=google(
        {
            **augreg_shapes(4),
            **patch_shapes(2048, 1),
            **resnet_shapes((2, 2, 2, 2)),
        },
        "",
        "vit_small_r26_s32_224",
        HYBRID,
    ),
    big_vision_map=google(big_vision_shapes(SQUARE_TOKENS, "map"), "params/", SIGLIP, SQUARE_TOWER),
    big_vision_gap=google(big_vision_shapes(SQUARE_TOKENS, "gap"), "params/", PLAIN, GAP),
    big_vision_token=google(
        big_vision_shapes(SQUARE_TOKENS, "tok"),
        "params/",
        PLAIN,
        dict(img_size=SQUARE, no_embed_class=True),
    ),
    big_vision_scanned=google(
        big_vision_shapes(SQUARE_TOKENS, "gap"), "params/", PLAIN, GAP, scanned=True
    ),
    big_vision_bfloat16=google(
        big_vision_shapes(SQUARE_TOKENS, "gap"), "params/", PLAIN, GAP, stored=torch.bfloat16
    ),
    big_vision_siglip=google(
        big_vision_shapes(SQUARE_TOKENS, "map"),
        "params/img/",
        SIGLIP,
        SQUARE_TOWER,
        beside=TEXT_TOWER,
    ),
)


class PreLogits(nn.Module):
    """timm's model without a head, then the two layers that ImageNet-21k checkpoints have."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.pre_logits = nn.ModuleDict({"fc": nn.Linear(WIDTH, 96)})
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.pre_logits["fc"](self.backbone(x))))


@case
def augreg_pre_logits(folder: Path, dtype: torch.dtype) -> Built:
    """The original ViT's file, with a tanh layer before the head; timm reads the rest."""
    shapes = {**augreg_shapes(SQUARE_TOKENS), **patch_shapes(3, PATCH)}
    layers = {"pre_logits": (WIDTH, 96), "head": (96, CLASSES)}
    for name, shape in layers.items():
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    built = google(shapes, "", PLAIN, dict(SQUARE_TOWER))(folder, dtype)
    theirs = PreLogits(built.theirs)
    arrays = np.load(folder / "float32.npz")
    for name, layer in (("pre_logits", theirs.pre_logits["fc"]), ("head", theirs.head)):
        layer.weight.data = torch.from_numpy(arrays[f"{name}/kernel"].T.copy())
        layer.bias.data = torch.from_numpy(arrays[f"{name}/bias"])
    return Built(folder / "model.npz", theirs, "pre_logits")


# OpenAI's CLIP, rewritten from section 2.4 of the paper and its model.py


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, quick_gelu):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, HIDDEN))
        self.mlp.add_module("gelu", QuickGelu() if quick_gelu else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(HIDDEN, WIDTH))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, quick_gelu):
        super().__init__()
        blocks = [ResidualAttentionBlock(quick_gelu) for _ in range(DEPTH)]
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self, quick_gelu):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(SQUARE_TOKENS + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(quick_gelu)
        self.proj = nn.Parameter(torch.zeros(WIDTH, CLASSES))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    """The image tower beside what else such a file holds."""

    def __init__(self, quick_gelu=True):
        super().__init__()
        self.visual = Visual(quick_gelu)
        self.transformer = nn.Sequential(nn.Linear(4, 4))
        self.token_embedding = nn.Embedding(7, 4)
        self.ln_final = nn.LayerNorm(4)
        self.positional_embedding = nn.Parameter(torch.zeros(3, 4))
        self.text_projection = nn.Parameter(torch.zeros(4, CLASSES))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.visual(x)


@case
def openai_clip(folder: Path, dtype: torch.dtype) -> Built:
    """OpenAI's TorchScript archive."""
    theirs = randomize(Clip(), dtype)
    for name, value in (("input_resolution", SQUARE), ("context_length", 3), ("vocab_size", 7)):
        theirs.register_buffer(name, torch.tensor(value))
    image = torch.zeros(1, 3, SQUARE, SQUARE, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = {"forward": image}
        torch.jit.trace_module(theirs, traced, check_trace=False).save(folder / "ViT-B-16.pt")
    return Built(folder / "ViT-B-16.pt", theirs, "openai")


def open_clip(quick_gelu: bool) -> Case:
    """open_clip's safetensors with its configuration."""

    def build(folder: Path, dtype: torch.dtype) -> Built:
        theirs = randomize(Clip(quick_gelu), dtype)
        vision = dict(image_size=SQUARE, layers=DEPTH, width=WIDTH, patch_size=PATCH)
        config = {"model_cfg": {"embed_dim": CLASSES, "vision_cfg": vision}}
        if quick_gelu:
            config["model_cfg"]["quick_gelu"] = True
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        tensors = {k: v.contiguous() for k, v in theirs.state_dict().items()}
        save_file(tensors, folder / "open_clip_model.safetensors", {"format": "pt"})
        return Built(folder, theirs, "openai")

    return build


CASES["open_clip"] = open_clip(False)
CASES["open_clip_quickgelu"] = open_clip(True)


@case
def open_clip_without_configuration(folder: Path, dtype: torch.dtype) -> Built:
    """A file alone does not tell its activation: the model's name does."""
    theirs = randomize(Clip(False), dtype)
    torch.save(theirs.state_dict(), folder / "open_clip_pytorch_model.bin")
    path = folder / "open_clip_pytorch_model.bin"
    return Built(path, theirs, "openai", dict(model="tiny_clip"))


# The formats that can say what a case is, by the names of `export`.
HELD = {
    ("transformers",): [
        "vit_classifier",
        "vit_names_in_memory",
        "vit_pooler",
        "deit_classifier",
        "deit_with_teacher",
        "dinov2_swiglu_classifier",
        "dinov2_names_in_memory",
        "dinov2_registers",
        "original_dinov2_registers",
        "clip_vision_projection",
        "clip_two_towers",
        "openai_clip",
        "open_clip",
        "open_clip_quickgelu",
        "open_clip_without_configuration",
    ],
    ("timm",): [
        "timm_vit_many_choices",
        "timm_deit3",
        "original_deit3",
        "timm_hybrid_stem",
        "timm_dinov2_registers",
        "timm_clip",
        "timm_clip_quickgelu",
        "timm_siglip",
        "timm_siglip_gap",
        "timm_22b",
    ],
    ("transformers", "timm"): [
        "vit_like_timm",
        "timm_vit",
        "original_deit",
        "dino_backbone",
        "dino_training",
        "timm_distilled",
        "original_deit_distilled",
        "dinov2_model",
        "timm_dinov2",
        "original_dinov2",
        "timm_dinov2_swiglu",
        "original_dinov2_swiglu_in_chunks",
        "clip_vision",
        "clip_vision_prefixed",
        "siglip_vision_headless",
    ],
    ("npz",): ["augreg_pre_logits"],
    ("timm", "npz"): [
        "timm_hybrid",
        "augreg_hybrid",
        "big_vision_gap",
        "big_vision_token",
        "big_vision_scanned",
        "big_vision_bfloat16",
    ],
    ("transformers", "timm", "npz"): [
        "augreg",
        "augreg_with_optimizer_prefix",
        "big_vision_map",
        "big_vision_siglip",
        "siglip_vision",
        "siglip_vision_prefixed",
        "siglip_two_towers",
        "timm_siglip_tanh",
    ],
}
HELD_BY = {name: formats for formats, names in HELD.items() for name in names}
assert set(HELD_BY) == set(CASES)
