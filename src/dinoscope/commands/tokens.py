"""Statistics of the tokens that a backbone makes of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from dinoscope.models.model import Model
    from dinoscope.types import ImageInput


def token_statistics(model: Model, image: ImageInput) -> dict[str, Any]:
    """Encode the first tile of the first plane and describe its tokens of the last block.

    Returns
    -------
    dict
        ``tile`` and ``grid`` (rows, columns), ``mean`` and ``std`` over all values, ``norm_min``,
        ``norm_median`` and ``norm_max`` of the patch tokens, ``cls_norm``, ``cosine_to_mean`` (1:
        all tokens point one way), ``effective_rank`` (dimensions that carry the variance) and
        ``finite``.
    """
    import torch

    tile = first_tile(model, image)
    device = next(model.parameters()).device
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(tile)[None].to(device))
        patch_tokens = features.last[0].float().cpu().numpy()
        cls_token = features.cls_token[0].float().cpu().numpy()
    return {"tile": tile.shape[1:], **describe_tokens(patch_tokens, cls_token)}


def first_tile(model: Model, image: ImageInput) -> np.ndarray:
    """The tile ``(3, th, tw)`` float32 at the image's origin, normalised, at native scale."""
    import numpy as np

    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.normalize import Normalization, limits, to_model_input
    from dinoscope.arrays.tiling import cut, tile_grid

    normalization = Normalization.from_json(model.card.normalization)
    plane = read_plane(image, (0,) * len(image.plane_axes))
    pixels = to_model_input(plane, limits(image, normalization), normalization)
    low, high = model.card.tile
    shape = (image.size("Y"), image.size("X"))
    grid = tile_grid(shape, tile_min=low, tile_max=high, patch=model.backbone.patch)
    return np.ascontiguousarray(cut(pixels, grid, grid.tiles[0]), dtype=np.float32)


def describe_tokens(patch_tokens: np.ndarray, cls_token: np.ndarray) -> dict[str, Any]:
    """The numbers of :func:`token_statistics` for tokens ``(D, h, w)`` and ``(D,)``."""
    import numpy as np

    rows = patch_tokens.reshape(patch_tokens.shape[0], -1).T.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    mean = rows.mean(axis=0)
    lengths = np.maximum(norms * np.linalg.norm(mean), 1e-12)
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    return {
        "grid": patch_tokens.shape[1:],
        "mean": float(rows.mean()),
        "std": float(rows.std()),
        "norm_min": float(norms.min()),
        "norm_median": float(np.median(norms)),
        "norm_max": float(norms.max()),
        "cls_norm": float(np.linalg.norm(cls_token.astype(np.float64))),
        "cosine_to_mean": float((rows @ mean / lengths).mean()),
        # (Sum of the eigenvalues)² over the sum of their squares, from the matrix itself.
        "effective_rank": float(np.trace(covariance) ** 2 / max((covariance**2).sum(), 1e-300)),
        "finite": bool(np.isfinite(rows).all() and np.isfinite(cls_token).all()),
    }
