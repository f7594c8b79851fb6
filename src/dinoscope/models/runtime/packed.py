"""The backbone in PyTorch: 16-bit weights made once, and on the CPU attention within the cache.

PyTorch's fused CPU attention computes bf16 no faster than fp32; matrix products over blocks of
rows that stay in the cache are over twice as fast. Blocks of rows with a running softmax are the
idea of FlashAttention (Dao et al. 2022, arXiv:2205.14135); here whole rows fit, so no running sum
is needed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING

from torch.nn import functional as F

from dinoscope.models.backbone import FeatureMap
from dinoscope.models.device import torch
from dinoscope.models.runtime.parts import Parts, positions_for
from dinoscope.models.vit import EPSILON

if TYPE_CHECKING:
    from torch import Tensor

#: Rows of queries whose scores are held at once.
ROWS = 256
#: Sums of exponentials outside of this were made of values that bf16 and fp32 cannot hold.
_SUM_RANGE = (1e-30, 1e30)
#: Position embeddings of this many tile shapes are kept.
_KEPT_GRIDS = 16


class PackedVit:
    """Tokens of `parts`; of pixels that are on `device`.

    Parameters
    ----------
    parts : Parts
        The backbone.
    dtype : torch.dtype
        Of weights and activations. Sums inside of products and norms are float32 in any case.
    device : str
        Where the pixels will be.
    blocked : bool, optional
        Attention in blocks of rows; in 16 bits on the CPU when not given. Else by PyTorch's fused
        kernels, which on cards are the faster ones.
    """

    def __init__(
        self,
        parts: Parts,
        dtype: torch.dtype,
        device: str = "cpu",
        *,
        blocked: bool | None = None,
    ) -> None:
        self.parts = parts
        self.dtype = dtype
        self.device = torch.device(device)
        if blocked is None:
            blocked = self.device.type == "cpu" and dtype != torch.float32
        self._blocked = blocked
        self._t = {
            name: torch.from_numpy(array).to(self.device, dtype, copy=True)
            for name, array in parts.tensors.items()
            if name != "positions"
        }
        if self._blocked:
            # Scores in units of ln 2: powers of two are quicker to compute than those of e.
            for i in range(parts.depth):
                for name in (f"{i}.qkv.weight", f"{i}.qkv.bias"):
                    array = parts.tensors[name].copy()
                    array[: parts.dim] *= math.log2(math.e)
                    self._t[name] = torch.from_numpy(array).to(self.device, dtype)
        self._mean = torch.tensor(parts.mean, device=self.device).view(1, 3, 1, 1)
        self._per_std = 1 / torch.tensor(parts.std, device=self.device).view(1, 3, 1, 1)
        self._positions: dict[tuple[int, int], Tensor] = {}
        #: Whether exponentials without their row's maximum were seen to overflow.
        self._careful = False

    def at(self, layers: tuple[int, ...]) -> PackedVit:
        """The same, sharing all weights, that returns the tokens of other blocks."""
        found = copy.copy(self)
        found.parts = dataclasses.replace(self.parts, layers=layers)
        return found

    def __call__(self, x: Tensor) -> FeatureMap:
        """``(B, 3, Y, X)`` float in about [0, 1], sides multiples of the patch, to tokens."""
        parts = self.parts
        grid = (x.shape[-2] // parts.patch, x.shape[-1] // parts.patch)
        tokens = self._embed(x, grid)
        chosen = []
        for i in range(max(parts.layers) + 1):
            tokens = tokens + self._attention(i, self._norm(f"{i}.norm1", tokens))
            tokens += self._mlp(i, self._norm(f"{i}.norm2", tokens))
            if i in parts.layers:
                chosen.append(self._norm("norm", tokens))
        maps = [t[:, parts.prefix :].transpose(1, 2).unflatten(2, grid) for t in chosen]
        return FeatureMap(torch.cat(maps, 1), chosen[-1][:, 0], parts.dim)

    def _embed(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        h, w = grid
        p, batch = self.parts.patch, len(x)
        # Channel by channel: single numbers far apart are slow to gather.
        x = torch.sub(x.float().contiguous(), self._mean).mul_(self._per_std).to(self.dtype)
        x = x.reshape(batch, 3, h, p, w, p).permute(0, 2, 4, 1, 3, 5).reshape(batch, h * w, -1)
        patches = F.linear(x, self._t["patch.weight"], self._t["patch.bias"])
        if grid not in self._positions:
            while len(self._positions) >= _KEPT_GRIDS:
                self._positions.pop(next(iter(self._positions)))
            made = positions_for(self.parts.tensors["positions"], grid)
            self._positions[grid] = torch.from_numpy(made).to(self.device, self.dtype)
        patches += self._positions[grid]
        return torch.cat([self._t["prefix"].expand(batch, -1, -1), patches], 1)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, (self.parts.dim,), self._t[f"{name}.weight"], self._t[f"{name}.bias"], EPSILON
        )

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._t[f"{name}.weight"], self._t[f"{name}.bias"])

    def _mlp(self, i: int, x: Tensor) -> Tensor:
        inner = self._linear(f"{i}.fc1", x)
        if self.parts.gated:
            gate, value = inner.chunk(2, -1)
            inner = F.silu(gate) * value
        else:
            inner = F.gelu(inner)
        return self._linear(f"{i}.fc2", inner)

    def _attention(self, i: int, x: Tensor) -> Tensor:
        b, n, d = x.shape
        heads = self.parts.heads
        qkv = self._linear(f"{i}.qkv", x).view(b, n, 3, heads, d // heads)
        apart = qkv.permute(2, 0, 3, 1, 4)
        if self._blocked:
            # One copy, so that every block of rows reads keys and values in order.
            q, k, v = apart.reshape(3, b * heads, n, d // heads).unbind(0)
            mixed = self._mix(q, k, v).view(b, heads, n, -1)
        else:
            q, k, v = apart.unbind(0)
            mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        joined = mixed.transpose(1, 2).reshape(b, n, d)
        return self._linear(f"{i}.proj", joined)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention ``(B·heads, N, d)`` in blocks of rows; scores are in units of ln 2."""
        heads, n, _ = q.shape
        rows = math.ceil(n / math.ceil(n / ROWS))
        keys = k.transpose(1, 2)
        out = torch.empty_like(q)
        if not self._careful:
            # Exponentials need their row's maximum only where they would overflow, which the sums
            # tell; a pass over the scores is saved.
            sums = q.new_empty(heads, n, 1)
            space = q.new_empty(heads * rows * n)  # once: fresh memory takes time
            for begin in range(0, n, rows):
                part = slice(begin, begin + rows)
                count = min(rows, n - begin)
                scores = space[: heads * count * n].view(heads, count, n)
                torch.bmm(q[:, part], keys, out=scores)
                scores.exp2_()
                torch.sum(scores, -1, keepdim=True, out=sums[:, part])
                torch.bmm(scores, v, out=out[:, part])
            low, high = torch.aminmax(sums)
            if _SUM_RANGE[0] < float(low) and float(high) < _SUM_RANGE[1]:
                return out.div_(sums)
            self._careful = True
        for begin in range(0, n, rows):
            part = slice(begin, begin + rows)
            scores = torch.bmm(q[:, part], keys).mul_(math.log(2))
            out[:, part] = torch.bmm(scores.softmax(-1), v)
        return out
