"""`vit_t`, `vit_s`, `vit_b`: insightface's vision transformers, without class token; all tokens give the embedding.

An Image is Worth 16x16 Words (arXiv:2010.11929); layers, keys and initialisation of
https://github.com/deepinsight/insightface, recognition/arcface_torch, without its dropout, whose probability there is
0. Its `vit_t_dp005_mask0` is `vit_t` with `--model_kwargs drop_path_rate=0.05 mask_ratio=0`; all have the same weights.
In its code any mask_ratio above 0 masks a tenth of the tokens.

B batch, E embedding size, H × W input (112 × 112 by default), T tokens, D their width.
"""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from fr.models.drops import DropPath, MaskedTokens
from fr.models.family import HALF, Family

PATCH = 9  # pixels; the last columns and rows that don't fill a patch are ignored
HEADS = 8
MLP_RATIO = 4
NORM_EPS = 2e-5  # of the batch norms


class Attention(nn.Module):
    """Self-attention of HEADS heads (arXiv:1706.03762, section 3.2): [B, T, D] → [B, T, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y: torch.Tensor = self.proj(F.scaled_dot_product_attention(*heads.unbind()).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention and MLP, each after a layer norm and with a skip: [B, T, D] → [B, T, D]."""

    def __init__(self, width: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.drop1, self.drop2 = DropPath(drop_rate), DropPath(drop_rate)
        wide = MLP_RATIO * width
        layers = {"fc1": nn.Linear(width, wide), "act": nn.ReLU6(), "fc2": nn.Linear(wide, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop1(self.attn(self.norm1(x)))
        y: torch.Tensor = x + self.drop2(self.mlp(self.norm2(x)))
        return y


class FaceTransformer(nn.Module):
    """[B, 3, H, W] → [B, E] embedding, not normalised.

    drop_path_rate: of the last block's branches; it increases linearly from 0 in the first. mask_ratio: share of the
    tokens that the blocks don't process in training; `mask_token` replaces them in the embedding.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        embed_size: int,
        input_size: tuple[int, int],
        drop_path_rate: float,
        mask_ratio: float,
    ) -> None:
        super().__init__()
        places = (input_size[0] // PATCH) * (input_size[1] // PATCH)
        self.pos_embed = nn.Parameter(torch.empty(1, places, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width), requires_grad=mask_ratio > 0)
        self.masked = MaskedTokens(mask_ratio)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH, PATCH)))
        rates = (drop_path_rate * number / (depth - 1) for number in range(depth))
        self.blocks = nn.Sequential(*(Block(width, rate) for rate in rates))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(width * places, width, bias=False),
            nn.BatchNorm1d(width, eps=NORM_EPS),
            nn.Linear(width, embed_size, bias=False),
            nn.BatchNorm1d(embed_size, eps=NORM_EPS),
        )
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are positions or tokens."""
        return {"pos_embed", "mask_token"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        seen = self.masked.seen(tokens)
        if seen is None:
            x = self.norm(self.blocks(tokens))
        else:
            places = seen[:, :, None].expand(-1, -1, tokens.shape[2])
            x = self.norm(self.blocks(tokens.gather(1, places)))
            x = self.mask_token.to(x.dtype).expand_as(tokens).scatter(1, places, x)
        y: torch.Tensor = self.feature(x.flatten(1))
        return y


SETTINGS = {"drop_path_rate": 0.1, "mask_ratio": 0.1}
FAMILIES = {
    name: Family(partial(FaceTransformer, width, depth), (112, 112), mean=HALF, std=HALF, settings=SETTINGS)
    for name, (width, depth) in {"vit_t": (256, 12), "vit_s": (512, 12), "vit_b": (512, 24)}.items()
}
