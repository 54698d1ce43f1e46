"""The mapping table of the plain family (`models.vit.VisionTransformer`), for every layout.

The layouts differ in names, in whether queries, keys and values are packed, and in the order of
axes: PyTorch stores a linear map as (out, in) with the heads flattened, Flax as (in, out) with the
heads apart. A layout is therefore a `Names`, data alone, and the table is written once.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from vit_jax.convert.rules import Constant, Ignored, Rule, Table, joined, same, stacked
from vit_jax.errors import UserError
from vit_jax.models.layers.position import TABLES
from vit_jax.models.vit import VisionTransformer

# Axes on the way in: d width, h heads, c channels of a head, m MLP, p q patch, k one of q, k, v.
TORCH = {
    "linear": "o i -> i o",
    "gate": "(g m) d -> d g m",
    "gate_bias": "(g m) -> g m",
    "gates": "g m d -> d g m",
    "heads": "(h c) d -> d h c",
    "heads_bias": "(h c) -> h c",
    "packed": "(k h c) d -> d k h c",
    "packed_bias": "(k h c) -> k h c",
    "split": "k (h c) d -> d k h c",
    "split_bias": "k (h c) -> k h c",
    "merge": "d (h c) -> h c d",
    "conv": "o i p q -> p q i o",
}
FLAX = {
    "heads": "d h c -> d h c",
    "heads_bias": "h c -> h c",
    "split": "k d h c -> d k h c",
    "split_bias": "k h c -> k h c",
    "merge": "h c d -> h c d",
}


Place = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Names:
    """What a layout calls the parts. An empty name: the layout has no such part.

    A name that ends in "_" is followed by "weight" without a separator. A pair is a tensor's whole
    name and the pattern of its axes, where that differs from what other layouts have.

    Attributes:
        weight, scale, bias: the last part of a linear map's, a norm's and any bias's name.
        separator: between the parts of a name.
        patterns: orders of axes by use (`TORCH` or `FLAX`).
        block: name of block i.
        qkv: one name (packed) or three, inside a block.
        fc1, gated_fc1: first layer of the MLP, and of the gated MLP (one name, or gate and value).
        pool: names inside attention pooling; "qkv" is packed, "kv" beside "q" too.
        parallel: names of a block whose attention and MLP run side by side.
        resnet: names of a convolution of a hybrid's ResNet and of the norm after it, from the
            module, the place (stage, block; None for the stem) and the part ("stem", "1", "2", "3"
            or "shortcut").
        constants, ignored: see `rules.Table`.
    """

    weight: str = "weight"
    scale: str = "weight"
    bias: str = "bias"
    separator: str = "."
    patterns: Mapping[str, str] = dataclasses.field(default_factory=lambda: TORCH)
    cls_token: str | tuple[str, str] = ""
    dist_token: str = ""
    reg_token: str = ""
    pos_embed: str | tuple[str, str] = ""
    patch: str = ""
    norm_pre: str = ""
    block: Callable[[int], str] = "blocks.{}".format
    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    q_norm: str = ""
    k_norm: str = ""
    proj: str = "attn.proj"
    ls1: str = ""
    norm2: str = "norm2"
    fc1: str = "mlp.fc1"
    fc2: str = "mlp.fc2"
    gated_fc1: str | tuple[str, str] = ""
    gated_fc2: str = ""
    ls2: str = ""
    norm: str = "norm"
    fc_norm: str = ""
    pool: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parallel: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resnet: Callable[[VisionTransformer, Place | None, str], tuple[str, str]] | None = None
    pre_logits: str = ""
    head: str | tuple[str, str] = ""
    head_dist: str = ""
    constants: tuple[Constant, ...] = ()
    ignored: tuple[Ignored, ...] = ()


def plain_table(module: VisionTransformer, names: Names) -> Table:
    """The table of a plain Vision Transformer in the layout `names`.

    Raises:
        UserError: the layout has no place for a part of the module.
    """
    rules = list(_Rules(module, names).all())
    return Table(tuple(rules), names.constants, names.ignored)


def decoder_rules(
    module: VisionTransformer, names: Names, depth: int, target: str
) -> Iterator[Rule]:
    """Rules of blocks below `target` that are chosen as the module's own are, but in their sizes.

    Args:
        module: whose choices they are.
        names: of the blocks, and of the parts within.
        depth: how many.
        target: in front of their paths in our parameters, as "decoder/".
    """
    yield from _Rules(module, names).blocks(depth, target)


class _Rules:
    """Rules for each part of one module, in one layout."""

    def __init__(self, module: VisionTransformer, names: Names) -> None:
        self.module, self.names = module, names

    def all(self) -> Iterator[Rule]:
        """Rules of every parameter, from the image to the head."""
        m, n = self.module, self.names
        if m.resnet_layers is not None:
            if n.resnet is None:
                raise UserError("this layout has no place for a hybrid's ResNet")
            yield from self.resnet(tuple(m.resnet_layers))
        yield from self.linear("patch", n.patch, "patch_embed", "conv", m.patch_bias)
        for field, wanted in (
            ("cls_token", m.class_token),
            ("dist_token", m.dist_token),
            ("reg_token", m.reg_tokens),
        ):
            if wanted:
                yield self.array(field, field)
        if m.pos_embed in TABLES:
            yield self.array("pos_embed", "pos_embed/table")
        elif m.pos_embed != "none":
            raise UserError(f"this layout has no place for pos_embed={m.pos_embed!r}")
        if m.pre_norm:
            yield from self.norm("norm_pre", n.norm_pre, "norm_pre")
        yield from self.blocks(m.depth, "encoder/")
        if m.final_norm:
            name = "fc_norm" if m.norm_after_pool else "norm"
            yield from self.norm(name, getattr(n, name), name)
        if m.global_pool == "map":
            yield from self.attention_pool()
        if m.representation_size is not None:
            yield from self.linear("pre_logits", n.pre_logits, "pre_logits")
        if m.num_classes:
            yield from self.linear("head", n.head, "head", use_bias=m.head_bias)
            if m.dist_token:
                yield from self.linear("head_dist", n.head_dist, "head_dist")

    def resnet(self, layers: tuple[int, ...]) -> Iterator[Rule]:
        """Stem and bottlenecks of a hybrid's ResNet."""
        yield from self.conv_norm(None, "stem", "backbone/")
        for i, depth in enumerate(layers):
            for j in range(depth):
                target = f"backbone/stages_{i}_blocks_{j}/"
                for part in ("1", "2", "3"):
                    yield from self.conv_norm((i, j), part, target)
                if j == 0:
                    yield from self.conv_norm((i, j), "shortcut", target)

    def conv_norm(self, place: Place | None, part: str, target: str) -> Iterator[Rule]:
        """A convolution without bias and the norm after it."""
        n, patterns = self.names, self.names.patterns
        assert n.resnet is not None
        conv, norm = n.resnet(self.module, place, part)
        part = part if part.isdecimal() else f"_{part}"
        weight = self.leaf(conv, n.weight)
        yield same(weight, f"{target}conv{part}/kernel", patterns.get("conv"))
        for theirs, ours in ((n.scale, "scale"), (n.bias, "bias")):
            name = f"{target}norm{part}/{ours}"
            yield same(self.leaf(norm, theirs), name, patterns.get("group_norm"))

    def array(self, part: str, target: str) -> Rule:
        """A parameter that is no layer, such as a token."""
        name = getattr(self.names, part)
        name, pattern = name if isinstance(name, tuple) else (name, None)
        return same(self.known(part, name), target, pattern)

    def known(self, part: str, name: str) -> str:
        """The name, unless the layout has none."""
        if not name:
            raise UserError(f"this layout has no place for the part {part!r} of the model")
        return name

    def leaf(self, name: str, leaf: str) -> str:
        """The name of a layer's weight, scale or bias."""
        return name + ("" if name.endswith("_") else self.names.separator) + leaf

    def linear(
        self,
        part: str,
        name: str | tuple[str, str],
        target: str,
        kind: str = "linear",
        use_bias: bool = True,
    ) -> Iterator[Rule]:
        """Weight and bias of a linear map."""
        n, pattern = self.names, self.names.patterns.get(kind)
        weight = bias = ""
        if isinstance(name, tuple):
            weight, pattern = name
        elif self.known(part, name):
            weight, bias = self.leaf(name, n.weight), self.leaf(name, n.bias)
        yield same(weight, f"{target}/kernel", pattern)
        if use_bias:
            known = self.known(f"{part} bias", bias)
            yield same(known, f"{target}/bias", n.patterns.get(f"{kind}_bias"))

    def stack(self, names: Sequence[str], target: str, kind: str, use_bias: bool) -> Iterator[Rule]:
        """Weights and biases of linear maps that are one of ours."""
        n = self.names
        weights = [self.leaf(name, n.weight) for name in names]
        yield stacked(weights, f"{target}/kernel", n.patterns[kind])
        if use_bias:
            biases = [self.leaf(name, n.bias) for name in names]
            yield stacked(biases, f"{target}/bias", n.patterns.get(f"{kind}_bias", "... -> ..."))

    def norm(self, part: str, name: str, target: str) -> Iterator[Rule]:
        """Scale and bias of a norm."""
        n = self.names
        name = self.known(part, name)
        yield same(self.leaf(name, n.scale), f"{target}/scale")
        if self.module.norm_layer == "layernorm":
            yield same(self.leaf(name, n.bias), f"{target}/bias")

    def blocks(self, depth: int, target: str) -> Iterator[Rule]:
        """So many blocks, whose paths in our parameters begin with `target`."""
        block = self.parallel_block if self.module.parallel_block else self.block
        for i in range(depth):
            source = self.names.block(i) + self.names.separator
            yield from block(source, f"{target}blocks_{i}/")

    def block(self, source: str, target: str) -> Iterator[Rule]:
        """A block whose MLP follows its attention."""
        m, n = self.module, self.names
        yield from self.norm("norm1", source + n.norm1, target + "norm1")
        yield from self.qkv(source, target + "attn/qkv")
        if m.qk_norm:
            for part in ("q_norm", "k_norm"):
                name = self.known(part, getattr(n, part))
                yield from self.norm(part, source + name, f"{target}attn/{part}")
        yield from self.linear("proj", source + n.proj, target + "attn/proj", "merge", m.proj_bias)
        yield from self.norm("norm2", source + n.norm2, target + "norm2")
        yield from self.mlp(source, target + "mlp")
        if m.init_values is not None:
            for part in ("ls1", "ls2"):
                name = self.known(part, getattr(n, part))
                yield same(source + name, f"{target}{part}/gamma")

    def qkv(self, source: str, target: str) -> Iterator[Rule]:
        """Queries, keys and values: one matrix or three."""
        m, n = self.module, self.names
        if m.qkv_bias and not m.k_bias:
            raise UserError("this layout has no place for k_bias=False")
        if len(n.qkv) == 1:
            yield from self.linear("qkv", source + n.qkv[0], target, "packed", m.qkv_bias)
            return
        yield from self.stack([source + name for name in n.qkv], target, "split", m.qkv_bias)

    def mlp(self, source: str, target: str) -> Iterator[Rule]:
        """Both layers of the MLP, gated or not."""
        m, n = self.module, self.names
        if m.mlp_layer == "swiglu":
            fc2 = source + self.known("gated_fc2", n.gated_fc2)
            if isinstance(n.gated_fc1, tuple):
                pair = [source + name for name in n.gated_fc1]
                yield from self.stack(pair, f"{target}/fc1", "gates", m.mlp_bias)
            else:
                fc1 = source + self.known("gated_fc1", n.gated_fc1)
                yield from self.linear("fc1", fc1, f"{target}/fc1", "gate", m.mlp_bias)
        else:
            fc1, fc2 = source + n.fc1, source + n.fc2
            yield from self.linear("fc1", fc1, f"{target}/fc1", use_bias=m.mlp_bias)
        yield from self.linear("fc2", fc2, f"{target}/fc2", use_bias=m.mlp_bias)

    def parallel_block(self, source: str, target: str) -> Iterator[Rule]:
        """A block of ViT-22B, whose MLP and attention begin with one matrix (timm's order)."""
        m, n = self.module, self.names.parallel
        if not n:
            raise UserError("this layout has no place for parallel_block=True")
        if (m.qkv_bias and not (m.k_bias and m.mlp_bias)) or (not m.qkv_bias and not m.mlp_bias):
            raise UserError(
                "this layout has the biases of a parallel block's MLP and of its queries, keys "
                f"and values or the MLP's alone; the model has qkv_bias={m.qkv_bias}, "
                f"k_bias={m.k_bias}, mlp_bias={m.mlp_bias}"
            )
        yield from self.norm("norm1", source + n["norm"], target + "norm1")
        mlp, qkv = f"{target}mlp/fc1", f"{target}attn/qkv"
        first = source + n["in"]
        yield joined(
            f"{first}.weight", {f"{mlp}/kernel": "m d -> d m", f"{qkv}/kernel": TORCH["packed"]}
        )
        if m.qkv_bias:
            parts = {f"{mlp}/bias": "m -> m", f"{qkv}/bias": TORCH["packed_bias"]}
            yield joined(f"{first}.bias", parts)
        else:
            yield same(source + n["mlp_bias"], f"{mlp}/bias")
        if m.qk_norm:
            for part in ("q_norm", "k_norm"):
                yield from self.norm(part, source + n[part], f"{target}attn/{part}")
        out = source + n["attn_out"]
        yield from self.linear("proj", out, f"{target}attn/proj", "merge", m.proj_bias)
        yield from self.linear("fc2", source + n["mlp_out"], f"{target}mlp/fc2")
        if m.init_values is not None:
            yield same(source + n["ls"], f"{target}ls1/gamma")

    def attention_pool(self) -> Iterator[Rule]:
        """Multi-head attention pooling; PyTorch packs queries with keys and values, or not."""
        m, n, patterns = self.module, self.names.pool, self.names.patterns
        if not n:
            raise UserError("this layout has no place for global_pool='map'")
        yield same(n["latent"], "attn_pool/latent")
        if "qkv" in n:
            for theirs, ours, end in (("weight", "kernel", ""), ("bias", "bias", "_bias")):
                parts = {
                    f"attn_pool/q/{ours}": patterns["heads" + end],
                    f"attn_pool/kv/{ours}": patterns["packed" + end],
                }
                yield joined(self.leaf(n["qkv"], theirs), parts)
        else:
            yield from self.linear("q", n["q"], "attn_pool/q", "heads")
            if "kv" in n:
                yield from self.linear("kv", n["kv"], "attn_pool/kv", "packed")
            else:
                yield from self.stack((n["k"], n["v"]), "attn_pool/kv", "split", use_bias=True)
        yield from self.linear("proj", n["proj"], "attn_pool/proj", "merge")
        yield from self.norm("norm", n["norm"], "attn_pool/norm")
        for part in ("fc1", "fc2"):
            yield from self.linear(part, n[part], f"attn_pool/mlp/{part}", use_bias=m.mlp_bias)
