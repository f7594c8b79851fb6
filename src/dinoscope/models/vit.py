"""DINOv2's vision transformer, with the parameter names and the arithmetic of timm's.

Files made with either can be read by the other, and a test holds the two against each other. timm
itself is needed only where weights are drawn or converted: importing it takes longer than
importing PyTorch, more than a small image takes to predict.

Architecture: Dosovitskiy et al. (2020), arXiv:2010.11929; LayerScale: Touvron et al. (2021),
arXiv:2103.17239; SwiGLU: Shazeer (2020), arXiv:2002.05202.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.models.registry import BackboneSpec

#: LayerNorm's epsilon, as DINOv2 was trained with.
EPSILON = 1e-6


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, rows: int = 256) -> Tensor:
    """Softmax attention in row blocks that stay in the processor's cache.

    ``(B, heads, N, d)`` each. On processors with bf16 matrix units this is over twice as fast as
    the fused CPU kernel, which computes bf16 no faster than fp32 (see docs/architecture.md).
    """
    q = q * q.shape[-1] ** -0.5
    keys = k.transpose(-2, -1)
    if q.shape[-2] <= 2 * rows:
        return (q @ keys).softmax(dim=-1).to(v.dtype) @ v
    return torch.cat(
        [(part @ keys).softmax(dim=-1).to(v.dtype) @ v for part in q.split(rows, dim=-2)], dim=-2
    )


class Linear(nn.Linear):
    """A linear layer whose weights are whatever memory held: they are always loaded.

    Drawing those of the larger transformers takes seconds. Making them on PyTorch's device
    ``meta`` instead would import its symbolic algebra, which takes a second.
    """

    def reset_parameters(self) -> None:
        """Nothing is drawn."""


class Attention(nn.Module):
    """Self-attention, in bf16 on the CPU computed by `chunked_attention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to the same."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if x.device.type == "cpu" and q.dtype == torch.bfloat16:
            x = chunked_attention(q, k, v)
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two layers with a GELU between them; with `gated` half of the first one gates the other."""

    def __init__(self, dim: int, inner: int, *, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = Linear(dim, inner)
        self.fc2 = Linear(inner // 2 if gated else inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to the same."""
        x = self.fc1(x)
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            return self.fc2(F.silu(gate) * value)  # type: ignore[no-any-return]
        return self.fc2(F.gelu(x))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to the same."""
        return x * self.gamma


class Block(nn.Module):
    """Attention, then the two layers, each on normalised tokens and added to what came in."""

    def __init__(self, dim: int, heads: int, inner: int, *, gated: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPSILON)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, EPSILON)
        self.mlp = Mlp(dim, inner, gated=gated)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Pixels ``(B, 3, Y, X)`` to patches ``(B, h, w, D)``."""

    def __init__(self, dim: int, patch: int, grid: int) -> None:
        super().__init__()
        self.grid_size = (grid, grid)
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """One row of channels for each patch."""
        return self.proj(x).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """The transformer that `spec` describes; every weight must be loaded (see `drawn`)."""

    reg_token: nn.Parameter | None

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        dim = spec.embed_dim
        grid = spec.image_size // spec.patch
        gated = "giant" in spec.timm_id
        inner = int(dim * 2.66667 * 2) if gated else 4 * dim
        # With registers, positions are those of patches alone.
        self.no_embed_class = spec.registers > 0
        self.num_prefix_tokens = spec.prefix_tokens
        self.patch_embed = PatchEmbed(dim, spec.patch, grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.reg_token = (
            nn.Parameter(torch.zeros(1, spec.registers, dim)) if spec.registers else None
        )
        count = grid * grid + (0 if self.no_embed_class else 1)
        self.pos_embed = nn.Parameter(torch.zeros(1, count, dim))
        self.blocks = nn.ModuleList(
            Block(dim, spec.num_heads, inner, gated=gated) for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(dim, EPSILON)

    def place(self, patches: Tensor) -> Tensor:
        """Patches ``(B, h, w, D)`` with their positions, class and register tokens before them:
        ``(B, N, D)``, the first block's input."""
        batch, h, w, dim = patches.shape
        prefix, positions = self._positions(h, w)
        tokens = patches.reshape(batch, h * w, dim) + positions
        first = [self.cls_token + prefix]
        if self.reg_token is not None:
            first.append(self.reg_token)
        return torch.cat([*(t.expand(batch, -1, -1) for t in first), tokens], dim=1)

    def _positions(self, h: int, w: int) -> tuple[Any, Tensor]:
        """What is added to the class token, and positions ``(1, h·w, D)`` resampled to the grid."""
        prefix: Any = 0
        positions: Tensor = self.pos_embed
        if not self.no_embed_class:
            prefix, positions = positions[:, :1], positions[:, 1:]
        if (h, w) == self.patch_embed.grid_size:
            return prefix, positions
        side = math.isqrt(positions.shape[1])
        square = positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resampled = F.interpolate(square, size=(h, w), mode="bicubic", antialias=True)
        return prefix, resampled.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)


def drawn(spec: BackboneSpec) -> VisionTransformer:
    """A transformer whose weights timm draws."""
    import timm

    with torch.device("cpu"):
        state = timm.create_model(spec.timm_id, **spec.timm_kwargs()).state_dict()
    vit = VisionTransformer(spec)
    vit.load_state_dict(state)
    return vit
