"""Keep attention awake while a transformer is trained from scratch at a high learning rate.

Nothing bounds the products of queries and keys, and a high rate lets them grow until every query
looks at one key alone; the softmax then passes no gradient, and what such a head looks at never
changes again. Dehghani et al. (2023, arXiv:2302.05442) saw it in large vision transformers. Here
the weights of queries and keys are scaled down where their product grew too large, head by head:
the "QK-clip" of Kimi Team (2025, arXiv:2507.20534), which leaves the architecture as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: Products (before the softmax) that no head is to exceed: e³⁰ is as good as all or nothing.
LARGEST = 30.0
#: Steps between two looks.
EVERY = 20
#: At most this much at a time, so that what follows a head can learn to live with it.
LEAST_FACTOR = 0.7


class AttentionCap:
    """An extra of `engine.fit` that adds no loss, but caps the products of queries and keys.

    Parameters
    ----------
    vit : nn.Module
        A transformer of `models.vit`, all of whose weights are trained.
    largest : float
        No head's products are to exceed this.
    every : int
        Steps between two looks.
    """

    name = "attention"

    def __init__(self, vit: nn.Module, largest: float = LARGEST, every: int = EVERY) -> None:
        self.largest, self.every = largest, every
        blocks = list(vit.blocks)  # type: ignore[arg-type]
        self._heads = int(blocks[0].attn.num_heads)
        self._seen: dict[nn.Linear, Tensor] = {}
        self._look = True
        self._hooks = [b.attn.qkv.register_forward_hook(self._watch) for b in blocks]

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionCap:
        """A copied model tells the same cap, which listens only to models that train."""
        return self

    def __call__(self, model: nn.Module, step: int, share_done: float) -> None:
        """Nothing is added to the loss."""
        self._look = (step + 1) % self.every == 0

    @torch.no_grad()
    def _watch(self, layer: nn.Linear, inputs: Any, output: Tensor) -> None:
        """Forward hook of a block's layer of queries, keys and values."""
        if self._look and layer.training:
            self._seen[layer] = largest_products(output, self._heads)

    @torch.no_grad()
    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Scale queries and keys of heads whose products are too large, half of it each."""
        for layer, products in self._seen.items():
            factor = (self.largest / products).clamp(LEAST_FACTOR, 1.0).sqrt()
            width = layer.weight.shape[1] // self._heads
            each = factor.to(layer.weight).repeat_interleave(width).repeat(2)
            layer.weight[: len(each)] *= each[:, None]
            layer.bias[: len(each)] *= each
        self._seen = {}

    def state(self) -> dict[str, Any]:
        """Nothing is kept: the next look tells all."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """Look no more."""
        for hook in self._hooks:
            hook.remove()


def largest_products(qkv: Tensor, heads: int) -> Tensor:
    """The largest product of a query and a key, of each head.

    Parameters
    ----------
    qkv : (B, N, 3·D) tensor
        Queries, keys and values.

    Returns
    -------
    (heads,) float32
        Over the root of a head's width, as they enter the softmax; at least a tiny positive number.
    """
    b, n, d = qkv.shape
    q, k, _ = qkv.detach().view(b, n, 3, heads, d // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
    products: Tensor = (q @ k.transpose(-2, -1)).float() * q.shape[-1] ** -0.5
    return products.amax((0, 2, 3)).clamp_min(1e-6)
