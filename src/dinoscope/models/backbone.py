"""A DINOv2 vision transformer that returns the tokens of several of its blocks.

Architecture: Oquab et al., "DINOv2" (2023), arXiv:2304.07193; registers: Darcet et al. (2023),
arXiv:2309.16588. The transformer itself is in `dinoscope.models.vit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinoscope.models import vit
from dinoscope.models.registry import BackboneSpec
from dinoscope.models.vit import VisionTransformer

#: ImageNet statistics, which DINOv2 was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureMap:
    """Tokens of one batch of tiles.

    `patch_tokens` (B, L·D, h, w) are the layer-normalised tokens of L chosen blocks, concatenated;
    `cls_token` (B, D) is that of the last block. The last D channels of `patch_tokens` are the
    last block's.
    """

    patch_tokens: Tensor
    cls_token: Tensor
    embed_dim: int

    @property
    def last(self) -> Tensor:
        """Patch tokens of the last block alone, (B, D, h, w)."""
        return self.patch_tokens[:, -self.embed_dim :]


class Backbone(nn.Module):
    """A vision transformer with DINOv2's settings; input ``(B, 3, Y, X)`` float in about [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, spec: BackboneSpec, transformer: VisionTransformer, layers: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.spec = spec
        self.vit = transformer
        self.layers = layers
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def embed_dim(self) -> int:
        return int(self.spec.embed_dim)

    @property
    def patch(self) -> int:
        return int(self.spec.patch)

    def embed(self, x: Tensor) -> Tensor:
        """Pixels to the first block's input tokens, ``(B, N, D)`` with class and register tokens
        first."""
        return self.vit.place(self.vit.patch_embed((x - self.mean) / self.std))

    def run_blocks(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        start: int = 0,
        kept: list[Tensor] | None = None,
    ) -> FeatureMap:
        """Blocks from `start` on; `kept` holds chosen layers' raw tokens from below `start`."""
        chosen = list(kept or [])
        for index in range(start, len(self.vit.blocks)):
            tokens = self.vit.blocks[index](tokens)
            if index in self.layers:
                chosen.append(tokens)
        prefix = 1 + int(self.spec.registers)
        normed = [self.vit.norm(t) for t in chosen]
        h, w = grid
        maps = [t[:, prefix:].transpose(1, 2).unflatten(2, (h, w)) for t in normed]
        return FeatureMap(torch.cat(maps, dim=1), normed[-1][:, 0], self.embed_dim)

    def forward(self, x: Tensor) -> FeatureMap:
        """Tokens of a batch of tiles whose sides are multiples of the patch size."""
        grid = (x.shape[-2] // self.patch, x.shape[-1] // self.patch)
        return self.run_blocks(self.embed(x), grid)


def build_backbone(
    spec: BackboneSpec, *, layers: tuple[int, ...] | None = None, empty: bool = False
) -> Backbone:
    """A backbone with the architecture of `spec`, randomly initialised.

    DINOv2 was trained at ``spec.image_size``; other tile sizes resample the position embedding.
    With `empty`, nothing is drawn (seconds, for the larger ones): every weight must be loaded.
    """
    return Backbone(
        spec, vit.VisionTransformer(spec) if empty else vit.drawn(spec), layers or spec.layers
    )
