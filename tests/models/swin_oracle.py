"""timm's and Transformers' Swin Transformers as independent implementations, in our layout.

The mapping here is for the tests alone: tensor by tensor, from the names of their modules in
memory to our tree, so that values and gradients can both be carried over.
"""

import numpy as np
import torch

from tests.models.timm_oracle import create_model, gradients, randomize, timm, weights
from vit_jax.convert.torch_libraries import import_library

transformers = import_library("transformers", "this test")

TINY = dict(embed_dim=8, depths=(2, 2), num_heads=(2, 4), num_classes=5)


def log_offsets(window, trained):
    """Swin V2's table of offsets, entry by entry, in float64 (Liu et al. 2022, eq. 4 and code)."""
    table = np.zeros((1, 2 * window[0] - 1, 2 * window[1] - 1, 2))
    for i in range(2 * window[0] - 1):
        for j in range(2 * window[1] - 1):
            for axis, k in enumerate((i, j)):
                offset = 8 * (k - window[axis] + 1) / max(trained[axis] - 1, 1)
                table[0, i, j, axis] = np.sign(offset) * np.log(1 + abs(offset)) / np.log(8)
    return torch.tensor(table)


def exact(model):
    """Their offsets are computed in float32, whatever the model's dtype: here again in float64."""
    for module in model.modules():
        if hasattr(module, "relative_coords_table"):
            trained = module.pretrained_window_size
            trained = trained if trained[0] else module.window_size
            table = log_offsets(module.window_size, trained)
            torch.testing.assert_close(module.relative_coords_table, table, rtol=1e-5, atol=1e-6)
            module.relative_coords_table.copy_(table)
    return model


def timm_model(name, **options):
    return exact(randomize(create_model(name, **{**TINY, **options})))


def transformers_model(version, **options):
    """A classifier of Transformers, its weights drawn anew, from our hyper-parameters."""
    options = {**TINY, **options}
    options["num_labels"] = options.pop("num_classes")
    options["image_size"] = options.pop("img_size")
    name = {1: "Swin", 2: "Swinv2"}[version]
    config = getattr(transformers, f"{name}Config")(**options)
    return exact(randomize(getattr(transformers, f"{name}ForImageClassification")(config)))


class Mapping:
    """Takes each of their tensors once."""

    def __init__(self, tensors):
        self.left = dict(tensors)

    def linear(self, name, out=None, inputs=None):
        kernel = self.left.pop(f"{name}.weight").T
        out, inputs = out or kernel.shape[1:], inputs or kernel.shape[:1]
        found = {"kernel": kernel.reshape(*inputs, *out)}
        if f"{name}.bias" in self.left:
            found["bias"] = self.left.pop(f"{name}.bias").reshape(out)
        return found

    def norm(self, name):
        return {
            "scale": self.left.pop(f"{name}.weight"),
            "bias": self.left.pop(f"{name}.bias"),
        }

    def conv(self, name):
        kernel = self.left.pop(f"{name}.weight").transpose(2, 3, 1, 0)
        return {"kernel": kernel, "bias": self.left.pop(f"{name}.bias")}

    def relative(self, table, window):
        """The table of biases, or the network that gives them."""
        if f"{table}.relative_position_bias_table" in self.left:
            flat = self.left.pop(f"{table}.relative_position_bias_table")
            return {"table": flat.reshape(2 * window[0] - 1, 2 * window[1] - 1, -1)}
        for name in ("cpb_mlp", "continuous_position_bias_mlp"):
            if f"{table}.{name}.0.weight" in self.left:
                return {f"fc{i}": self.linear(f"{table}.{name}.{2 * i - 2}") for i in (1, 2)}
        raise KeyError(table)

    def rest(self, params, attn, name):
        if f"{name}.logit_scale" in self.left:
            attn["logit_scale"] = self.left.pop(f"{name}.logit_scale").reshape(-1)
        return params

    def timm_block(self, name, heads, window):
        attn_name = f"{name}.attn"
        out = (3, heads, self.left[f"{attn_name}.proj.weight"].shape[0] // heads)
        attn = {
            "qkv": self.linear(f"{attn_name}.qkv", out),
            "proj": self.linear(f"{attn_name}.proj", inputs=out[1:]),
            "rel_pos": self.relative(attn_name, window),
        }
        if f"{attn_name}.q_bias" in self.left:
            q, v = (self.left.pop(f"{attn_name}.{part}_bias") for part in "qv")
            attn["qv_bias"] = np.stack([q, v]).reshape(2, *out[1:])
        block = {
            "attn": attn,
            "norm1": self.norm(f"{name}.norm1"),
            "norm2": self.norm(f"{name}.norm2"),
            "mlp": {fc: self.linear(f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")},
        }
        return self.rest(block, attn, attn_name)

    def transformers_block(self, name, heads, window):
        second = f"{name}.attention.self.query.weight" in self.left
        base = f"{name}.attention." + ("self." if second else "")
        parts = ("query", "key", "value") if second else ("q_proj", "k_proj", "v_proj")
        proj = f"{name}.attention." + ("output.dense" if second else "o_proj")
        table = f"{base}relative_position_bias"
        head = (heads, self.left[f"{proj}.weight"].shape[0] // heads)
        split = [self.linear(base + part, head) for part in parts]
        attn = {
            "qkv": {"kernel": np.stack([part["kernel"] for part in split], axis=1)},
            "proj": self.linear(proj, inputs=head),
            "rel_pos": self.relative(base[:-1] if second else table, window),
        }
        biases = [part["bias"] for part in split if "bias" in part]
        if len(biases) == 3:
            attn["qkv"]["bias"] = np.stack(biases)
        elif biases:
            attn["qv_bias"] = np.stack(biases)
        fc = (f"{name}.intermediate.dense", f"{name}.output.dense")
        fc1, fc2 = fc if second else (f"{name}.mlp.fc1", f"{name}.mlp.fc2")
        block = {
            "attn": attn,
            "norm1": self.norm(f"{name}.layernorm_before"),
            "norm2": self.norm(f"{name}.layernorm_after"),
            "mlp": {"fc1": self.linear(fc1), "fc2": self.linear(fc2)},
        }
        return self.rest(block, attn, base[:-1])

    def done(self, params):
        if self.left:
            raise KeyError(f"left over: {sorted(self.left)}")
        return params


def merging(mapping, name):
    return {
        "norm": mapping.norm(f"{name}.norm"),
        "reduction": mapping.linear(f"{name}.reduction"),
    }


def from_timm(tensors, module):
    """timm's named tensors (weights or gradients) as our parameter tree."""
    m = Mapping(tensors)
    params = {
        "patch_embed": m.conv("patch_embed.proj"),
        "patch_norm": m.norm("patch_embed.norm"),
        "norm": m.norm("norm"),
        "head": m.linear("head.fc"),
    }
    for i, (depth, heads, window) in enumerate(
        zip(module.depths, module.num_heads, module.windows())
    ):
        stage = {}
        if i:  # timm merges at the start of a stage
            stage["downsample"] = merging(m, f"layers.{i}.downsample")
        for j in range(depth):
            stage[f"blocks_{j}"] = m.timm_block(f"layers.{i}.blocks.{j}", heads, window)
        params[f"stages_{i}"] = stage
    return m.done(params)


def from_transformers(tensors, module):
    """Tensors of a classifier of Transformers, by their names in memory, as our tree."""
    body = {1: "swin", 2: "swinv2"}[module.version]
    m = Mapping(tensors)
    params = {
        "patch_embed": m.conv(f"{body}.embeddings.patch_embeddings.projection"),
        "patch_norm": m.norm(f"{body}.embeddings.norm"),
        "norm": m.norm(f"{body}.layernorm"),
        "head": m.linear("classifier"),
    }
    for i, (depth, heads, window) in enumerate(
        zip(module.depths, module.num_heads, module.windows())
    ):
        name = f"{body}.encoder.layers.{i}"
        stage = {}
        if i:  # Transformers at the end, as the original
            stage["downsample"] = merging(m, f"{body}.encoder.layers.{i - 1}.downsample")
        for j in range(depth):
            stage[f"blocks_{j}"] = m.transformers_block(f"{name}.blocks.{j}", heads, window)
        params[f"stages_{i}"] = stage
    return m.done(params)


__all__ = ["create_model", "gradients", "randomize", "timm", "weights"]
