"""The authors' masked autoencoder in PyTorch, rewritten from the paper's section 3 and their names.

Blocks are timm's, as theirs are. Noise is handed in.
"""

import torch
from torch import nn

from tests.models.timm_oracle import timm

Block = timm.models.vision_transformer.Block


class MaskedAutoencoderViT(nn.Module):
    """Parameters under the names of the authors' files; squares of three channels."""

    def __init__(
        self, img_size, patch_size, embed_dim, depth, num_heads, decoder_embed_dim, decoder_depth,
        decoder_num_heads, mask_ratio=0.75, norm_pix_loss=False,
    ):  # fmt: skip
        super().__init__()
        self.patch, self.ratio, self.norm_pix_loss = patch_size, mask_ratio, norm_pix_loss
        tokens = (img_size // patch_size) ** 2 + 1

        def norm(width, **dtypes):
            return nn.LayerNorm(width, eps=1e-6, **dtypes)

        def blocks(width, count, heads):
            made = [Block(width, heads, 4, qkv_bias=True, norm_layer=norm) for _ in range(count)]
            return nn.ModuleList(made)

        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim), requires_grad=False)
        self.blocks, self.norm = blocks(embed_dim, depth, num_heads), norm(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        table = torch.zeros(1, tokens, decoder_embed_dim)
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)
        self.decoder_blocks = blocks(decoder_embed_dim, decoder_depth, decoder_num_heads)
        self.decoder_norm = norm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, 3 * patch_size**2)

    def patches(self, images):
        """Pixels of each patch, rows before columns before channels."""
        cut = images.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

    def forward(self, images, noise):
        """Prediction, mask and loss."""
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        total = x.shape[1]
        order = noise.argsort(dim=1)
        kept = order[:, : int(total * (1 - self.ratio))]
        rows = torch.arange(len(x))[:, None]
        mask = torch.ones(len(x), total, dtype=x.dtype)
        mask[rows, kept] = 0
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), 1, -1)
        x = torch.cat([first, x[rows, kept]], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        full = self.mask_token.repeat(len(x), total, 1)
        full[rows, kept] = x[:, 1:]
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        return prediction, mask, self.loss(images, prediction, mask)

    def loss(self, images, prediction, mask):
        """Mean squared error of the masked patches."""
        target = self.patches(images)
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)  # unbiased
            target = (target - mean) / (variance + 1e-6) ** 0.5
        return ((prediction - target) ** 2).mean(dim=-1)[mask > 0].mean()
