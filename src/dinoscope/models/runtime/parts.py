"""A backbone as plain arrays: adapters merged, LayerScale and the attention's scale folded in.

Every engine but timm's own is built from this. The folds are exact algebra: a diagonal matrix after
(LayerScale) or a scalar before (1/√d) a linear layer becomes part of that layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.models.adapter import merge
from dinoscope.models.backbone import MEAN, STD
from dinoscope.models.device import torch
from dinoscope.models.model import Model


@dataclass(frozen=True)
class Parts:
    """What a forward pass needs, float32.

    `tensors` has, for each block i, ``i.norm1.weight``, ``i.norm1.bias``, ``i.qkv.*``,
    ``i.proj.*``, ``i.norm2.*``, ``i.fc1.*``, ``i.fc2.*`` (weights ``(out, in)``);
    ``patch.weight`` (D, 3·p·p), ``patch.bias``; ``prefix`` (P, D), the class and register tokens;
    ``positions`` (g, g, D); and ``norm.*``. `gated` tells SwiGLU from GELU. Pixels are normalised
    by `mean` and `std` first.
    """

    tensors: Mapping[str, np.ndarray]
    depth: int
    heads: int
    dim: int
    patch: int
    layers: tuple[int, ...]
    gated: bool
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def prefix(self) -> int:
        """Tokens before the patch tokens."""
        return len(self.tensors["prefix"])


def take_apart(model: Model) -> Parts:
    """The backbone of `model` with its adapter merged; `model` stays as it is.

    Raises
    ------
    InputError
        A backbone whose blocks are built otherwise.
    """
    if model.lora is not None and not model.lora.merged:
        model = merge(model)
    vit, spec = model.backbone.vit, model.backbone.spec
    state = {n: t.detach().float().cpu() for n, t in vit.state_dict().items()}
    depth, dim = len(vit.blocks), int(spec.embed_dim)
    heads = int(spec.num_heads)
    tensors: dict[str, Any] = {
        "patch.weight": state["patch_embed.proj.weight"].flatten(1),
        "patch.bias": state["patch_embed.proj.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
        **_embeddings(state, dim),
    }
    for i in range(depth):
        tensors |= {f"{i}.{n}": t for n, t in _block(state, f"blocks.{i}.", dim, heads).items()}
    gated = _gated(tensors["0.fc1.weight"].shape[0], tensors["0.fc2.weight"].shape[1])
    arrays = {n: np.ascontiguousarray(t.numpy()) for n, t in tensors.items()}
    return Parts(arrays, depth, heads, dim, int(spec.patch), tuple(model.backbone.layers), gated)


def _gated(inner: int, outer: int) -> bool:
    if inner not in (outer, 2 * outer):
        raise InputError(
            f"the network's inner layers are {inner} and {outer} wide",
            expected="a DINOv2 vision transformer",
        )
    return inner == 2 * outer


def _embeddings(state: Mapping[str, Any], dim: int) -> dict[str, Any]:
    """Prefix tokens with their positions added, and the grid of patch positions."""
    tokens = [state["cls_token"][0]]
    if "reg_token" in state:
        tokens.append(state["reg_token"][0])
    prefix = torch.cat(tokens)
    positions = state["pos_embed"][0]
    side = int(len(positions) ** 0.5)
    extra = len(positions) - side * side
    if extra not in (0, len(prefix)):
        raise InputError(
            f"{len(positions)} position embeddings for {len(prefix)} prefix tokens",
            expected="one for each patch, or for prefix tokens too",
        )
    if extra:
        prefix = prefix + positions[:extra]
    return {"prefix": prefix, "positions": positions[extra:].reshape(side, side, dim)}


def _block(state: Mapping[str, Any], name: str, dim: int, heads: int) -> dict[str, Any]:
    first = torch.ones(dim) if f"{name}ls1.gamma" not in state else state[f"{name}ls1.gamma"]
    second = torch.ones(dim) if f"{name}ls2.gamma" not in state else state[f"{name}ls2.gamma"]
    scale = torch.ones(3 * dim)
    scale[:dim] = (dim // heads) ** -0.5
    try:
        return {
            "norm1.weight": state[f"{name}norm1.weight"],
            "norm1.bias": state[f"{name}norm1.bias"],
            "qkv.weight": state[f"{name}attn.qkv.weight"] * scale[:, None],
            "qkv.bias": state[f"{name}attn.qkv.bias"] * scale,
            "proj.weight": state[f"{name}attn.proj.weight"] * first[:, None],
            "proj.bias": state[f"{name}attn.proj.bias"] * first,
            "norm2.weight": state[f"{name}norm2.weight"],
            "norm2.bias": state[f"{name}norm2.bias"],
            "fc1.weight": state[f"{name}mlp.fc1.weight"],
            "fc1.bias": state[f"{name}mlp.fc1.bias"],
            "fc2.weight": state[f"{name}mlp.fc2.weight"] * second[:, None],
            "fc2.bias": state[f"{name}mlp.fc2.bias"] * second,
        }
    except KeyError as missing:
        raise InputError(
            f"block {name.rstrip('.')!r} has no {missing}", expected="a DINOv2 vision transformer"
        ) from None


def resampling_matrix(old: int, new: int) -> np.ndarray:
    """``(new, old)`` float32: bicubic resampling with antialiasing along one axis.

    The same weights as ``torch.nn.functional.interpolate(mode="bicubic", antialias=True)``: Keys'
    cubic kernel (a = -0.5), widened where `new` is smaller, normalised at the borders.
    """
    scale = old / new
    width = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    x = np.abs((np.arange(old) + 0.5)[None] - centres[:, None]) / width
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def positions_for(positions: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Position embeddings ``(g, g, D)`` resampled to ``(h·w, D)``."""
    rows = resampling_matrix(positions.shape[0], grid[0])
    columns = resampling_matrix(positions.shape[1], grid[1])
    resampled = np.einsum("hg,gkd,wk->hwd", rows, positions, columns, optimize=True)
    return np.ascontiguousarray(resampled.reshape(-1, positions.shape[2]), np.float32)
