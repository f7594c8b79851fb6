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
        self._layers: dict[str, tuple[nn.Linear, int]] = {}
        self._seen: dict[str, Tensor] = {}
        self._look = True
        self._hooks = []
        for number, block in enumerate(vit.blocks):  # type: ignore[arg-type]
            name, heads = f"{number}", block.attn.num_heads
            self._layers[name] = (block.attn.qkv, heads)
            self._hooks.append(block.attn.qkv.register_forward_hook(_Watch(self, name, heads)))

    def __call__(self, model: nn.Module, step: int, share_done: float) -> None:
        """Nothing is added to the loss."""
        self._look = (step + 1) % self.every == 0

    def saw(self, name: str, products: Tensor) -> None:
        """Told the largest product of every head ``(heads,)`` in a forward pass."""
        if self._look:
            self._seen[name] = products

    @property
    def looking(self) -> bool:
        """Whether products of this step are wanted."""
        return self._look

    @torch.no_grad()
    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Scale queries and keys of heads whose products are too large, half of it each."""
        for name, products in self._seen.items():
            layer, heads = self._layers[name]
            factor = (self.largest / products).clamp(LEAST_FACTOR, 1.0).sqrt()
            each = factor.to(layer.weight).repeat_interleave(layer.in_features // heads).repeat(2)
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


class _Watch:
    """Forward hook of one block's layer of queries, keys and values."""

    def __init__(self, cap: AttentionCap, name: str, heads: int) -> None:
        self._cap, self._name, self._heads = cap, name, heads

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        """A copied model tells the same cap, which listens only to models that train."""
        return self

    @torch.no_grad()
    def __call__(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._cap.looking and layer.training:
            self._cap.saw(self._name, largest_products(output, self._heads))


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
