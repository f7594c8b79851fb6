"""A plain U-Net (Ronneberger et al. 2015) of about two million parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 128, 256)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [
            nn.Conv2d(width, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """``(B, 3, Y, X)``, sides multiples of 16, to ``(B, channels, Y, X)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _block(i, o) for i, o in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)
        )
        pairs = list(zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
        self.up = nn.ModuleList(_block(low + high, high) for low, high in pairs)
        self.out = nn.Conv2d(WIDTHS[0], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        x = x * 2 - 1
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], 1))
        return self.out(x)  # type: ignore[no-any-return]
