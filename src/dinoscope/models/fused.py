"""Operations of the dense decoder whose gradients PyTorch computes slowly on a CPU.

Values are PyTorch's own; only the way back differs. Its kernel for the gradient of a group
normalisation takes 3.7 ns for each bfloat16 value in channels-last order, the three passes here
0.5 ns; the one of a bilinear resize is ten times slower where the gradient is a slice of another
tensor, as behind a concatenation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _NormRelu(torch.autograd.Function):
    """Group normalisation and ReLU of maps in channels-last order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
    ) -> Tensor:
        batch, channels, height, width = x.shape
        y, mean, scale = torch.native_group_norm(
            x, weight, bias, batch, channels, height * width, groups, epsilon
        )
        y = y.relu_()
        ctx.save_for_backward(x, y, mean, scale, weight)
        ctx.groups = groups
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, scale, weight = ctx.saved_tensors
        batch, channels, height, width = x.shape
        each = channels // ctx.groups
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        # (B, Y, X, C) views: channels-last order makes them contiguous.
        inner = torch.ops.aten.threshold_backward(gradient, y, 0).permute(0, 2, 3, 1)
        values = x.permute(0, 2, 3, 1)
        # Sums by row, then over rows: bfloat16 rounds those of a row alone, which averages out.
        total = inner.sum(2).float().sum(1)
        with_x = (inner * values).sum(2).float().sum(1)
        mean = mean.float().repeat_interleave(each, 1)
        scale = scale.float().repeat_interleave(each, 1)
        with_normed = (with_x - mean * total) * scale
        factor = weight.float()
        count = each * height * width

        def over_group(sums: Tensor) -> Tensor:
            grouped: Tensor = (sums * factor).view(batch, ctx.groups, each).sum(2) / count
            return torch.repeat_interleave(grouped, each, 1)

        slope = -scale * scale * over_group(with_normed)
        offset = -scale * over_group(total) - slope * mean

        def broad(coefficients: Tensor) -> Tensor:
            return coefficients.to(x.dtype).view(batch, 1, 1, channels)

        found = torch.addcmul(broad(offset), values, broad(slope))
        found = found.addcmul_(inner, broad(scale * factor)).permute(0, 3, 1, 2)
        return (
            found,
            with_normed.sum(0).to(weight.dtype),
            total.sum(0).to(weight.dtype),
            None,
            None,
        )


class _Resized(torch.autograd.Function):
    """Bilinear resize whose gradient is brought to channels-last order first."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, height: int, width: int) -> Tensor:
        ctx.shape = maps.shape
        return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = torch.ops.aten.upsample_bilinear2d_backward(
            gradient, list(gradient.shape[-2:]), list(ctx.shape), False
        )
        return back, None, None


def _trained(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def norm_relu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """``relu(norm(x))`` of ``(B, C, Y, X)``."""
    if _trained(x) and norm.weight.requires_grad:
        return _NormRelu.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)  # type: ignore[no-any-return]
    return F.relu(norm(x), inplace=True)


def resize_like(maps: Tensor, target: Tensor) -> Tensor:
    """`maps` at the size of `target`, bilinear."""
    height, width = target.shape[-2:]
    if _trained(maps) and maps.requires_grad:
        return _Resized.apply(maps, height, width)  # type: ignore[no-any-return]
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
