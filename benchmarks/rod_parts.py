"""Parts that were tried in the dense decoder so that it parts packed rods; none of them ships.

Each changes nothing at first, so that a trained model can be gone on from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.models.fused import norm_relu
from dinoscope.models.heads import JOINED, WIDTHS, ConvBlock, DenseDecoder
from dinoscope.models.model import Model
from dinoscope.tasks.instance import Instance, contact_lines

PARTS = ("contact", "context", "contrast", "lines")
#: Dilations of the blocks that look further around at stride 4.
DILATIONS = (1, 2, 4, 8)
#: Sides of the neighbourhoods of local contrast in pairs of pixels: one object wide, and two. The
#: variance there is at least `LEAST_SPREAD` squared, and values are kept within `MOST` spreads.
NEIGHBOURHOODS = (11, 27)
LEAST_SPREAD, MOST = 0.02, 4.0
#: Line filters at stride 2: directions, spreads across (a seam, a rod) and along, and half side.
DIRECTIONS, ACROSS, ALONG, RADIUS = 8, (1.5, 3.0), 7.0, 16
#: A contact line is nearer to the rim than this share of a half width.
NEAR_RIM = 0.25


def extend(model: Model, parts: tuple[str, ...]) -> Model:
    """The same model with parts of `PARTS`; lines need contrast."""
    decoder = model.decoder
    if decoder is None:
        raise ValueError(f"model {model.card.name!r} has no dense decoder to extend")
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"no part is called {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if "lines" in parts and "contrast" not in parts:
        raise ValueError("lines are looked for in local contrast: add the part contrast too")
    if "context" in parts:
        near, narrow = decoder.join4
        blocks = (ContextBlock(near[0].out_channels, d) for d in DILATIONS)
        decoder.join4 = nn.Sequential(near, *blocks, narrow)
    if "contrast" in parts:
        decoder.detail2 = ContrastDetail(decoder, lines="lines" in parts)
    if "contact" in parts:
        model.heads["instance"] = ContactHead(model.heads["instance"])
    return model


class ContextBlock(nn.Module):
    """What lies further around, by a dilated convolution (Yu and Koltun 2016, arXiv:1511.07122)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.around = ConvBlock(nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False))
        self.add = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.add(self.around(x))  # type: ignore[no-any-return]


class ContrastDetail(nn.Module):
    """A decoder's first detail block that also sees local contrast, and lines in it."""

    def __init__(self, decoder: DenseDecoder, *, lines: bool) -> None:
        super().__init__()
        (known, self.norm), *rest = decoder.detail2
        self.rest = nn.Sequential(*rest)
        seen = known.in_channels + 4 * len(NEIGHBOURHOODS)
        self.first = nn.Conv2d(seen, known.out_channels, 3, 1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.weight[:, : known.in_channels] = known.weight
        self.lines = Lines(WIDTHS[0]) if lines else None

    def forward(self, folded: Tensor) -> Tensor:
        """`folded` is the tile in [-1, 1] with each 2 x 2 block as channels."""
        contrast = local_contrast((F.pixel_shuffle(folded, 2) + 1) / 2).to(folded.dtype)
        maps = self.first(torch.cat([folded, contrast], 1))
        maps = self.rest(norm_relu(self.norm, maps))
        return maps if self.lines is None else maps + self.lines(contrast)


def local_contrast(x: Tensor) -> Tensor:
    """Grey values less the mean of their neighbourhood, over its standard deviation (divisive
    normalisation, Jarrett et al. 2009): the same for bright and dim places.

    ``(B, 3, Y, X)`` in about [0, 1], sides even, to ``(B, 4 * len(NEIGHBOURHOODS), Y/2, X/2)``
    float32: for each neighbourhood the four pixels of a 2 x 2 block.
    """
    grey = F.pixel_unshuffle(x.float().mean(1, keepdim=True), 2)
    moments = torch.cat([grey.mean(1, keepdim=True), (grey * grey).mean(1, keepdim=True)], 1)
    found = []
    for side in NEIGHBOURHOODS:
        around = moments
        for size in ((side, 1), (1, side)):
            pads = (size[0] // 2, size[1] // 2)
            around = F.avg_pool2d(around, size, 1, pads, count_include_pad=False)
        mean, square = around.split(1, 1)
        variance = (square - mean * mean).clamp_min(0)
        found.append((grey - mean) * torch.rsqrt(variance + LEAST_SPREAD**2))
    return torch.cat(found, 1).clamp(-MOST, MOST)


class Lines(nn.Module):
    """Local contrast to maps, by the lines that lie there: filters much longer than wide average
    along a seam that noise hides (steerable filters, Freeman and Adelson 1991)."""

    filters: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filters", line_filters(), persistent=False)
        # Bright and dark lines in each direction, and the strongest of each over all directions.
        seen = 2 * len(ACROSS) * (DIRECTIONS + 1)
        self.mix = nn.Conv2d(seen, channels, 1, bias=False)
        nn.init.zeros_(self.mix.weight)

    def forward(self, contrast: Tensor) -> Tensor:
        blocks = contrast[:, -4:].mean(1, keepdim=True)
        found = F.conv2d(blocks, self.filters.to(blocks.dtype), padding=RADIUS)
        signed = torch.cat([found, -found], 1)
        strongest = signed.unflatten(1, (2 * len(ACROSS), DIRECTIONS)).amax(2)
        return self.mix(F.relu(torch.cat([signed, strongest], 1)))  # type: ignore[no-any-return]


def line_filters() -> Tensor:
    """``(len(ACROSS) * DIRECTIONS, 1, K, K)``: second derivatives of a Gaussian across, a Gaussian
    along. A bright line gives positive values, an even ground zero; absolute values sum to 2."""
    side = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    filters = []
    for across in ACROSS:
        for number in range(DIRECTIONS):
            angle = math.pi * number / DIRECTIONS
            along = x * math.cos(angle) + y * math.sin(angle)
            off = (y * math.cos(angle) - x * math.sin(angle)) / across
            line = (1 - off**2) * torch.exp(-(off**2) / 2 - (along / ALONG) ** 2 / 2)
            line = line - line.mean()
            filters.append(2 * line / line.abs().sum())
    return torch.stack(filters)[:, None].float()


class ContactHead(nn.Module):
    """An instance head with a fifth map: whether a pixel lies where two objects touch."""

    def __init__(self, known: nn.Module) -> None:
        super().__init__()
        self.known = known
        self.mix = nn.Conv2d(JOINED, JOINED, 3, padding=1)
        self.out = nn.Conv2d(JOINED, 4, 1)
        self.mix.load_state_dict(known.mix.state_dict())  # type: ignore[union-attr,operator]
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.fill_(-2)  # type: ignore[union-attr]

    def forward(self, joined: Tensor) -> Tensor:
        contact = F.pixel_shuffle(self.out(F.relu(self.mix(joined))), 2)
        return torch.cat([self.known(joined), contact], 1)


@contextmanager
def contact_learned(*, alone: bool) -> Iterator[None]:
    """Within it the instance loss asks for the fifth map too (by cross-entropy: a distance that is
    in doubt comes out flat, a probability does not), or for that map alone."""
    known, maps = Instance.loss, Instance.activate

    def loss(self: Instance, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        inside = target[:, 4] * (0.25 + 0.75 * target[:, 0])
        truth = contact_lines(target[:, 0], target[:, 2], NEAR_RIM)
        cross = F.binary_cross_entropy_with_logits(raw[:, 4].float(), truth, reduction="none")
        contact = (cross * inside).sum() / inside.sum().clamp_min(1)
        return contact if alone else contact + known(self, raw[:, :4], target, settings)

    def activate(self: Instance, raw: Tensor) -> Tensor:
        return torch.cat([maps(self, raw[:, :4]), torch.sigmoid(raw[:, 4:])], 1)

    with (
        mock.patch.object(Instance, "loss", loss),
        mock.patch.object(Instance, "activate", activate),
    ):
        yield
