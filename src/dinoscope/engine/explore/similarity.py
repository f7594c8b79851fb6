"""How alike patches and objects are to those that were clicked, fast enough to be live.

The idea of finding by a few clicked references is DINOSim's (Gómez-de-Mariscal et al. 2025); here
the score is the cosine similarity of tokens, and negative clicks count as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinoscope.errors import InputError


def similarity(
    tokens: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray | None = None,
    mean: np.ndarray | None = None,
) -> np.ndarray:
    """Score tokens by references.

    With ``s+`` the highest cosine with a positive reference and ``s-`` the highest with a negative
    one, the score is ``s+`` in [-1, 1] without negatives, and ``(s+ - s-) / 2`` in [-1, 1] with
    them: above 0 is what is more like a positive than like any negative. A token of length 0 is
    like nothing (cosine 0).

    Parameters
    ----------
    tokens : (N, D) float array
        Of any precision.
    positive : (P, D) float array
        At least one.
    negative : (Q, D) float array, optional
        None, or no rows, where there are no negatives.
    mean : (D,) float array, optional
        Subtracted from everything first.

    Returns
    -------
    (N,) float32

    Raises
    ------
    InputError
        No positive reference, or tokens of another length.

    Examples
    --------
    >>> similarity(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    positive = np.atleast_2d(np.asarray(positive, np.float32))
    negative = np.zeros((0, positive.shape[1])) if negative is None else np.atleast_2d(negative)
    if not positive.size:
        raise InputError("nothing was clicked", expected="at least one positive patch or object")
    references = np.concatenate([positive, np.asarray(negative, np.float32)])
    if references.shape[1] != tokens.shape[1]:
        raise InputError(
            f"references have {references.shape[1]} values and tokens {tokens.shape[1]}",
            expected="clicks in images encoded by the same model with the same layers",
        )
    values = np.asarray(tokens, np.float32)
    if mean is not None:
        shift = np.asarray(mean, np.float32)
        values, references = values - shift, references - shift
    lengths = np.sqrt(np.einsum("nd,nd->n", values, values))
    units = references / np.maximum(np.linalg.norm(references, axis=1, keepdims=True), 1e-12)
    cosine = (values @ units.T) / np.maximum(lengths, 1e-12)[:, None]
    np.clip(cosine, -1, 1, out=cosine)
    best = cosine[:, : len(positive)].max(1)
    if len(negative):
        best = (best - cosine[:, len(positive) :].max(1)) / 2
    return np.asarray(best, np.float32)


def suggested_threshold(scores: Sequence[np.ndarray], *, negatives: bool) -> float:
    """Where to cut: 0 with negative clicks, else where the scores fall apart best (Otsu 1979)."""
    if negatives:
        return 0.0
    from skimage.filters import threshold_otsu

    values = np.concatenate([np.ravel(s) for s in scores]) if scores else np.zeros(0)
    if not values.size or values.min() == values.max():
        return float(values[0]) if values.size else 0.0
    return float(threshold_otsu(values))
