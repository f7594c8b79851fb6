"""Whether a backbone keeps its accuracy in 16 bits: measured on this machine, not assumed."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from dinoscope.models.device import precision_for, torch
from dinoscope.models.weights import state_digest, weights_stamp

if TYPE_CHECKING:
    from torch import Tensor

    from dinoscope.models.backbone import Backbone

#: Mean cosine between float32 tokens and those of 16 bits below which float32 is used.
LEAST_COSINE = 0.999
_TILE_PX = 224

#: Answers of this process: (backbone's hash, device, precision) -> cosine.
_measured: dict[tuple[str, str, torch.dtype], float] = {}
#: Hashes of backbones whose weights have not changed since; hashing takes longer than a small tile.
_hashed: weakref.WeakKeyDictionary[Backbone, tuple[Any, str]] = weakref.WeakKeyDictionary()


def check_bf16(
    backbone: Backbone, device: str, *, state_hash: str | None = None, training: bool = False
) -> tuple[torch.dtype, str]:
    """Choose the precision of a backbone on a device.

    Where the device computes bfloat16 (or float16) natively, one tile is encoded in both
    precisions, once for each backbone and process.

    Parameters
    ----------
    backbone : Backbone
        On `device` already.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    state_hash : str, optional
        What identifies the weights, where the caller knows it; computed when not given.
    training : bool
        No float16: see `precision_for`.

    Returns
    -------
    dtype : torch.dtype
        ``torch.bfloat16``, ``torch.float16`` or ``torch.float32``.
    note : str
        Says so where 16 bits were possible but not accurate enough; else empty.
    """
    dtype = precision_for(device, training=training)
    if dtype == torch.float32:
        return dtype, ""
    key = (state_hash or _hash(backbone), device, dtype)
    if key not in _measured:
        _measured[key] = token_cosine(backbone, device, dtype)
    cosine = _measured[key]
    if cosine >= LEAST_COSINE:
        return dtype, ""
    return torch.float32, (
        f"Backbone {backbone.spec.name!r} loses accuracy in {str(dtype).removeprefix('torch.')} "
        f"(cosine {cosine:.4f}, at least {LEAST_COSINE} is needed), so it runs in float32."
    )


def _hash(backbone: Backbone) -> str:
    stamp = weights_stamp(backbone)
    known = _hashed.get(backbone)
    if known is None or known[0] != stamp:
        known = _hashed[backbone] = (stamp, state_digest(backbone.vit.state_dict()))
    return known[1]


def token_cosine(backbone: Backbone, device: str, dtype: torch.dtype) -> float:
    """Mean cosine between one tile's tokens in float32 and in `dtype`; NaN counts as 0."""
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            tile = sample_tile(backbone.patch).to(device)
            exact = _tokens(backbone, tile)
            with torch.autocast(device, dtype=dtype):
                fast = _tokens(backbone, tile)
            cosine = torch.nn.functional.cosine_similarity(exact, fast, dim=-1).mean()
    finally:
        backbone.train(was_training)
    return float(torch.nan_to_num(cosine, nan=0.0))


def _tokens(backbone: Backbone, tile: Tensor) -> Tensor:
    features = backbone(tile)
    patches = features.last.flatten(2).transpose(1, 2)[0]
    return torch.cat([patches, features.cls_token]).float()


def sample_tile(patch: int) -> Tensor:
    """A tile ``(1, 3, y, x)`` in [0, 1], with structure at several scales, as an image has."""
    side = _TILE_PX // patch * patch
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, 3, side, side)
    for cells in (4, 16, 64):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")
    return (total / 3).clamp(0, 1)
