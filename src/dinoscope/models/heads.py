"""Heads: a convolutional detail branch joined with the tokens, and pooled linear heads.

A patch of 14 pixels is too coarse for cells, so dense outputs combine the tokens with features
that a few convolutions take from the pixels themselves (the idea of UNETR-type decoders and
ViTMatte's detail branch).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.models.backbone import FeatureMap
from dinoscope.models.card import HeadSpec
from dinoscope.models.fused import norm_relu, resize_like

#: Channels of the detail branch at strides 2, 4 and 8, and of the joined maps at stride 2.
WIDTHS = (32, 64, 96)
JOINED = 48
#: Channels of the classifiers' detail branch at stride 16.
DETAIL = 128


class ConvBlock(nn.Sequential):
    """Convolution, group normalisation and ReLU, the last two with one gradient of their own."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(convolution, nn.GroupNorm(8, convolution.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, Y, X)`` to maps of this block's channels and stride."""
        convolution, norm = self
        return norm_relu(norm, convolution(x))  # type: ignore[arg-type]


def _conv(inputs: int, outputs: int, stride: int = 1) -> ConvBlock:
    return ConvBlock(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))


class DenseDecoder(nn.Module):
    """Tokens and pixels to ``(B, JOINED, Y/2, X/2)`` maps that all dense heads share.

    Parameters
    ----------
    token_dim : int
        Channels of the concatenated patch tokens.
    patch : int
        Side of a patch in pixels, even.
    fine : int
        Channels at stride 2 that are unfolded from each token (sub-pixel convolution, Shi et al.
        2016, arXiv:1609.05158): the other path brings tokens in at the patch's own resolution, and
        cannot say where within a patch something lies. 0: no such path.
    """

    #: Share of the tiles whose detail branch is silent in training, so that the tokens learn to
    #: tell on their own what convolutions would tell sooner (ModDrop, Neverova et al. 2016).
    detail_drop = 0.0

    def __init__(self, token_dim: int, patch: int = 14, fine: int = 0) -> None:
        super().__init__()
        w2, w4, w8 = WIDTHS
        self.fine: nn.Sequential | None = None
        if fine:
            self.fine = nn.Sequential(
                nn.Conv2d(token_dim, fine * (patch // 2) ** 2, 1),
                nn.PixelShuffle(patch // 2),
                nn.Conv2d(fine, w2, 1, bias=False),
            )
            nn.init.zeros_(self.fine[2].weight)  # type: ignore[arg-type]  # as without, at first
        self.tokens = ConvBlock(nn.Conv2d(token_dim, 128, 1))
        self.detail2 = nn.Sequential(_conv(12, w2), _conv(w2, w2))
        self.detail4 = nn.Sequential(_conv(w2, w4, 2), _conv(w4, w4))
        self.detail8 = nn.Sequential(_conv(w4, w8, 2), _conv(w8, w8))
        self.join8 = nn.Sequential(_conv(w8 + 128, 128), nn.Conv2d(128, 64, 1))
        self.join4 = nn.Sequential(_conv(w4 + 64, 64), nn.Conv2d(64, 32, 1))
        self.join2 = _conv(w2 + 32, JOINED)

    def forward(self, features: FeatureMap, x: Tensor) -> Tensor:
        """`x` is the tile itself, ``(B, 3, Y, X)`` in about [0, 1], sides even."""
        d2 = self.detail2(F.pixel_unshuffle(x * 2 - 1, 2))
        d4 = self.detail4(d2)
        d8 = self.detail8(d4)
        if self.training and self.detail_drop:
            heard = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.detail_drop
            d2, d4, d8 = (d * heard.to(d.dtype) for d in (d2, d4, d8))
        if self.fine is not None:
            d2 = d2 + self.fine(features.patch_tokens)
        tokens = self.tokens(features.patch_tokens)
        joined = self.join8(torch.cat([d8, resize_like(tokens, d8)], 1))
        joined = self.join4(torch.cat([d4, resize_like(joined, d4)], 1))
        return self.join2(torch.cat([d2, resize_like(joined, d2)], 1))  # type: ignore[no-any-return]


class DenseHead(nn.Module):
    """`channels` maps at full resolution by pixel shuffle."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.mix = nn.Conv2d(JOINED, JOINED, 3, padding=1)
        self.out = nn.Conv2d(JOINED, 4 * spec.channels, 1)

    def forward(self, joined: Tensor) -> Tensor:
        return F.pixel_shuffle(self.out(F.relu(self.mix(joined))), 2)


class BinsHead(nn.Module):
    """One map: the expectation over uniform bins, as in DINOv2's depth estimators (after AdaBins).

    Weights are linearly normalised ReLU activations; the output is ``(B, 1, Y, X)`` in the head's
    unit.
    """

    centres: Tensor

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.mix = nn.Conv2d(JOINED, JOINED, 3, padding=1)
        self.out = nn.Conv2d(JOINED, spec.channels, 1)
        self.register_buffer(
            "centres", torch.linspace(spec.low, spec.high, spec.channels), persistent=False
        )

    def forward(self, joined: Tensor) -> Tensor:
        weights = F.relu(self.out(F.relu(self.mix(joined)))).float() + 1e-2
        value = (weights * self.centres.view(1, -1, 1, 1)).sum(1, keepdim=True) / weights.sum(
            1, keepdim=True
        )
        return F.interpolate(value, scale_factor=2, mode="bilinear", align_corners=False)


class PooledHead(nn.Module):
    """Logits from pooled tokens: the class token beside the mean of the patch tokens."""

    def __init__(self, spec: HeadSpec, token_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(token_dim + embed_dim)
        self.out = nn.Linear(token_dim + embed_dim, spec.channels)

    def extend(self, features: FeatureMap, x: Tensor) -> FeatureMap:
        """What is pooled: the tokens as they are."""
        return features

    def forward(self, pooled: Tensor) -> Tensor:
        """`pooled` is ``(N, L·D + D)`` from `pool_tokens`."""
        return self.out(self.norm(pooled))  # type: ignore[no-any-return]


class DetailPooledHead(PooledHead):
    """Logits from tokens, convolutional features and brightness, all pooled under one mask.

    Forms and textures finer than a patch come from a few convolutions on the pixels, whose maps are
    brought to the patch grid; their normalisation forgets how bright an image is, so the mean and
    spread of each channel stand beside them (the amount of DNA tells a cell's phase). A gate for
    each patch says how much it counts (gated attention pooling, Ilse et al. 2018): what lies around
    the cell in question need not.
    """

    #: Mean and mean square of three channels.
    STATISTICS = 6

    def __init__(self, spec: HeadSpec, token_dim: int, embed_dim: int, patch: int) -> None:
        super().__init__(spec, token_dim, embed_dim)
        w2, w4, w8 = WIDTHS
        self.patch = patch
        self.detail = nn.Sequential(
            _conv(12, w2),
            _conv(w2, w2),
            _conv(w2, w4, 2),
            _conv(w4, w4),
            _conv(w4, w8, 2),
            _conv(w8, w8),
            _conv(w8, DETAIL, 2),
            _conv(DETAIL, DETAIL),
        )
        self.detail_norm = nn.LayerNorm(DETAIL)
        self.gated_norm = nn.LayerNorm(embed_dim)
        self.gate = nn.Conv2d(DETAIL + embed_dim, 1, 1)
        nn.init.zeros_(self.gate.weight)  # at first every patch counts the same
        nn.init.ones_(self.gate.bias)  # type: ignore[arg-type]
        self.widths = (1, DETAIL, 3, 3, embed_dim)
        known = DETAIL + self.STATISTICS + embed_dim + token_dim + embed_dim
        self.out = nn.Linear(known, spec.channels)

    def extend(self, features: FeatureMap, x: Tensor) -> FeatureMap:
        """The gate, and what it weighs (detail, brightness, last tokens), before the patch
        tokens."""
        tokens = features.patch_tokens.float()
        detail = self.detail(F.pixel_unshuffle(x * 2 - 1, 2))
        detail = resize_like(detail, tokens).float()
        bright = F.avg_pool2d(torch.cat([x, x * x], 1), self.patch).float()
        last = features.last.float()
        gate = torch.sigmoid(self.gate(torch.cat([detail, last], 1)).float())
        joined = torch.cat([gate, gate * torch.cat([detail, bright, last], 1), tokens], 1)
        return FeatureMap(joined, features.cls_token, features.embed_dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """`pooled` is ``(N, K + L·D + D)``: `extend` says what the K are."""
        gate, detail, mean, square, last, tokens = pooled.split(
            [*self.widths, pooled.shape[1] - sum(self.widths)], dim=1
        )
        gate = gate.clamp_min(1e-4)
        mean, square = mean / gate, square / gate
        spread = torch.sqrt((square - mean * mean).clamp_min(0) + 1e-4)
        parts = [
            self.detail_norm(detail / gate),
            4 * mean,  # about 1, as what the normalisations give
            4 * spread,
            self.gated_norm(last / gate),
            self.norm(tokens),
        ]
        return self.out(torch.cat(parts, 1))  # type: ignore[no-any-return]


def pool_tokens(features: FeatureMap, weights: Tensor | None = None) -> Tensor:
    """Vectors for a pooled head.

    Parameters
    ----------
    features : FeatureMap
        Tokens of B tiles.
    weights : Tensor, optional
        ``(B, h, w)`` share of each patch that belongs to the image or object; all ones when not
        given.

    Returns
    -------
    Tensor
        ``(B, L·D + D)``: weighted mean of the patch tokens, then the class token.
    """
    tokens = features.patch_tokens.float()
    if weights is None:
        mean = tokens.mean((-2, -1))
    else:
        share = weights / weights.sum((-2, -1), keepdim=True).clamp_min(1e-6)
        mean = torch.einsum("bdhw,bhw->bd", tokens, share)
    return torch.cat([mean, features.cls_token.float()], 1)


def build_head(spec: HeadSpec, token_dim: int, embed_dim: int, patch: int) -> nn.Module:
    """The module that a `HeadSpec` describes."""
    if spec.kind == "dense":
        return DenseHead(spec)
    if spec.kind == "bins":
        return BinsHead(spec)
    if spec.kind == "pooled-detail":
        return DetailPooledHead(spec, token_dim, embed_dim, patch)
    return PooledHead(spec, token_dim, embed_dim)
