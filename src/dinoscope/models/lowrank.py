"""peft's linear layers with fewer passes over the tokens, for training in bfloat16.

peft casts a layer's input to the adapter's float32 and autocast casts it back, the frozen weight is
cast at every step, and products, scale and sum are separate passes. Here the low-rank product is
added within the matrix multiplication, both ways. Parameters, their names and the arithmetic up to
rounding stay peft's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _LowRank(torch.autograd.Function):
    """``x Wᵀ + bias + scale · (x Aᵀ) Bᵀ`` with W frozen; all but `a` and `b` in `x`'s precision."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        down, up = a.to(x.dtype), (scale * b).to(x.dtype)
        rows = x.flatten(0, -2)
        inner = rows @ down.t()
        y = F.linear(rows, weight, bias).addmm_(inner, up.t())
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale, ctx.shape, ctx.kind = scale, x.shape, a.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)
        through = gradient @ up
        found = None
        if ctx.needs_input_grad[0]:
            found = (gradient @ weight).addmm_(through, down).view(ctx.shape)
        # With the few rows of the adapter first: the other way round takes twice as long.
        of_a = (through.t() @ rows).to(ctx.kind)
        of_b = (inner.t() @ gradient).t().to(ctx.kind) * ctx.scale
        return found, None, None, of_a, of_b, None


class _Fast:
    """Mixed into the class of one of peft's linear layers while a model trains."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As peft's, from one product where autocast computes bfloat16."""
        layer: Any = self
        if not (torch.is_autocast_enabled("cpu") and x.device.type == "cpu"):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc, no-any-return]
        (name,) = layer.active_adapters
        return _LowRank.apply(  # type: ignore[no-any-return]
            x.to(torch.bfloat16),
            layer.half_weight,
            layer.half_bias,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name],
        )


def _fits(layer: nn.Module) -> bool:
    """Whether it is a linear layer with one plain adapter on frozen weights."""
    base: Any = getattr(layer, "base_layer", None)
    if not isinstance(base, nn.Linear) or not hasattr(layer, "lora_A"):
        return False
    names = list(layer.active_adapters)  # type: ignore[arg-type]
    return (
        len(names) == 1
        and isinstance(layer.lora_A[names[0]], nn.Linear)  # type: ignore[index]
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)  # type: ignore[index]
        and not any(p.requires_grad for p in base.parameters())
        and not layer.merged
        and not layer.use_dora.get(names[0], False)  # type: ignore[union-attr, operator]
    )


@contextmanager
def fast_lora(model: nn.Module, autocast: torch.dtype | None) -> Iterator[None]:
    """Inside, the LoRA layers of a model on the CPU that trains in bfloat16 are the faster ones.

    The class of each layer is changed, nothing else: state, names and copies stay as they are.
    """
    found: list[Any] = []
    if autocast == torch.bfloat16:
        found = [m for m in model.modules() if _fits(m) and m.base_layer.weight.is_cpu]  # type: ignore[union-attr]
    classes = [type(layer) for layer in found]
    try:
        for layer, kind in zip(found, classes, strict=True):
            base = layer.base_layer
            layer.half_weight = base.weight.detach().to(autocast)
            layer.half_bias = None if base.bias is None else base.bias.detach().to(autocast)
            layer.__class__ = type(f"Fast{kind.__name__}", (_Fast, kind), {})
        yield
    finally:
        for layer, kind in zip(found, classes, strict=True):
            layer.__class__ = kind
            for name in ("half_weight", "half_bias"):
                layer.__dict__.pop(name, None)
