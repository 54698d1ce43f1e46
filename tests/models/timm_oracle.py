"""timm's Vision Transformer as an independent implementation, and its weights in our layout.

The mapping here is for the tests alone: it goes tensor by tensor, from the timm module's
parameters to our tree, so that values and gradients can both be carried over.
"""

import math

import jax
import numpy as np
import torch

from vit_jax.convert.torch_libraries import import_library

timm = import_library("timm", "this test")
create_model = timm.create_model


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter anew, so that no zero or one hides an error; float64, evaluation."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            fan_in = math.prod(p.shape[1:]) if p.ndim > 1 else 1
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.copy_(centre + noise * (0.3 if fan_in == 1 else fan_in**-0.5))
    return model


def to_flax(tensors: dict[str, np.ndarray], heads: int, depth: int) -> dict:
    """timm's named tensors (weights or gradients) as our parameter tree.

    Raises:
        KeyError: a tensor was left over or is missing.
    """
    left = dict(tensors)
    take = left.pop

    def linear(name, out=None, inputs=None):
        kernel = take(f"{name}.weight").T
        kernel = kernel.reshape((inputs or kernel.shape[:1]) + (out or kernel.shape[1:]))
        found = {"kernel": kernel}
        if f"{name}.bias" in left:
            found["bias"] = take(f"{name}.bias").reshape(out or (-1,))
        return found

    def conv(name):
        found = {"kernel": take(f"{name}.weight").transpose(2, 3, 1, 0)}
        if f"{name}.bias" in left:
            found["bias"] = take(f"{name}.bias")
        return found

    def norm(name):
        found = {"scale": take(f"{name}.weight")}
        if f"{name}.bias" in left:
            found["bias"] = take(f"{name}.bias")
        return found

    def mlp(name):
        return {"fc1": linear(f"{name}.fc1"), "fc2": linear(f"{name}.fc2")}

    def block(name):
        d = left[next(k for k in left if k.startswith(name) and "norm" in k)].shape[0]
        d = tensors["pos_embed"].shape[-1] if "pos_embed" in tensors else d
        head = (heads, d // heads)
        out = {}
        if f"{name}.in_proj.weight" in left:  # ParallelScalingBlock: rows [mlp, q, k, v]
            weight = take(f"{name}.in_proj.weight").T
            hidden = weight.shape[1] - 3 * d
            out["norm1"] = norm(f"{name}.in_norm")
            out["attn"] = {
                "qkv": {"kernel": weight[:, hidden:].reshape(d, 3, *head)},
                "proj": linear(f"{name}.attn_out_proj", inputs=head),
            }
            fc1 = {"kernel": weight[:, :hidden], "bias": take(f"{name}.mlp_bias")}
            out["mlp"] = {"fc1": fc1, "fc2": linear(f"{name}.mlp_out_proj")}
            if f"{name}.ls.gamma" in left:
                out["ls1"] = {"gamma": take(f"{name}.ls.gamma")}
        else:
            out["norm1"], out["norm2"] = norm(f"{name}.norm1"), norm(f"{name}.norm2")
            out["attn"] = {
                "qkv": linear(f"{name}.attn.qkv", out=(3, *head)),
                "proj": linear(f"{name}.attn.proj", inputs=head),
            }
            out["mlp"] = mlp(f"{name}.mlp")
            fc1, fc2 = out["mlp"]["fc1"], out["mlp"]["fc2"]
            if fc1["kernel"].shape[1] == 2 * fc2["kernel"].shape[0]:  # SwiGLU, gate first
                fc1["kernel"] = fc1["kernel"].reshape(d, 2, -1)
                fc1["bias"] = fc1["bias"].reshape(2, -1)
            for i in (1, 2):
                for gamma in (f"{name}.ls{i}.gamma", f"{name}.gamma_{i}"):
                    if gamma in left:
                        out[f"ls{i}"] = {"gamma": take(gamma)}
        for qk, full in (("q_norm", f"{name}.attn.q_norm"), ("k_norm", f"{name}.attn.k_norm")):
            for prefix in (full, f"{name}.{qk}"):
                if f"{prefix}.weight" in left:
                    out["attn"][qk] = norm(prefix)
        return out

    def bottleneck(name):
        out = {}
        for ours, conv_name, norm_name in (
            ("_shortcut", "downsample.conv", "downsample.norm"),
            *((str(i), f"conv{i}", f"norm{i}") for i in (1, 2, 3)),
        ):
            if f"{name}.{conv_name}.weight" in left:
                out[f"conv{ours}"] = conv(f"{name}.{conv_name}")
                out[f"norm{ours}"] = norm(f"{name}.{norm_name}")
        return out

    params = {"encoder": {f"blocks_{i}": block(f"blocks.{i}") for i in range(depth)}}
    params["patch_embed"] = conv("patch_embed.proj")
    for token in ("cls_token", "dist_token", "reg_token"):
        if token in left:
            params[token] = take(token)
    if "pos_embed" in left:
        params["pos_embed"] = {"table": take("pos_embed")}
    for name in ("norm", "fc_norm", "norm_pre"):
        if f"{name}.weight" in left:
            params[name] = norm(name)
    for name in ("head", "head_dist"):
        if f"{name}.weight" in left:
            params[name] = linear(name)
    if "attn_pool.latent" in left:
        d = left["attn_pool.latent"].shape[-1]
        head = (heads, d // heads)
        params["attn_pool"] = {
            "latent": take("attn_pool.latent"),
            "q": linear("attn_pool.q", out=head),
            "kv": linear("attn_pool.kv", out=(2, *head)),
            "proj": linear("attn_pool.proj", inputs=head),
            "norm": norm("attn_pool.norm"),
            "mlp": mlp("attn_pool.mlp"),
        }
    backbone = "patch_embed.backbone"
    if any(k.startswith(backbone) for k in left):
        stem = f"{backbone}.stem" if f"{backbone}.stem.conv.weight" in left else backbone
        body = {"conv_stem": conv(f"{stem}.conv"), "norm_stem": norm(f"{stem}.norm")}
        prefixes = sorted({".".join(k.split(".")[:6]) for k in left if ".stages." in k})
        for prefix in prefixes:
            stage, number = prefix.split(".")[3], prefix.split(".")[5]
            body[f"stages_{stage}_blocks_{number}"] = bottleneck(prefix)
        params["backbone"] = body
    if left:
        raise KeyError(f"left over: {sorted(left)}")
    return params


def weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in model.named_parameters()}


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.grad.detach().numpy() for k, v in model.named_parameters()}


def worst_relative(ours, theirs) -> tuple[float, str]:
    """The largest `max|a - b| / max|b|` over the leaves of two trees, and the leaf's path."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    worst = (0.0, "")
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs)):
        assert a.shape == b.shape, (path, a.shape, b.shape)
        error = float(np.abs(a - b).max() / np.abs(b).max())
        worst = max(worst, (error, jax.tree_util.keystr(path)))
    return worst
