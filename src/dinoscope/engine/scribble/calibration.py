"""Honest probabilities: temperature scaling and the expected calibration error.

Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.
"""

from __future__ import annotations

import numpy as np

#: Temperatures that are looked at, and how finely (in log).
_RANGE = (0.1, 4.0)
_STEPS = 25
_FLOOR = 1e-4
#: Bins of the calibration error.
BINS = 10


def sharpen(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """``p^(1/T)`` scaled to sum to 1 along the last axis: surer below 1, less sure above.

    Examples
    --------
    >>> sharpen(np.array([[0.8, 0.2]]), 0.5).round(3).tolist()
    [[0.941, 0.059]]
    """
    if temperature == 1.0:
        return probabilities
    powered = np.maximum(probabilities, _FLOOR) ** np.float32(1 / temperature)
    return np.asarray(powered / powered.sum(-1, keepdims=True))


def fit_temperature(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """The temperature at which held-out classes are most likely.

    Parameters
    ----------
    probabilities : (n, C) array
        Of pixels that were not learned from.
    classes : (n,) integer
        Their classes.
    """
    if len(classes) == 0:
        return 1.0
    logs = np.log(np.maximum(probabilities, _FLOOR))
    own = logs[np.arange(len(classes)), classes]
    best, found = np.inf, 1.0
    for temperature in np.geomspace(*_RANGE, _STEPS):
        scaled = logs / temperature
        peak = scaled.max(1)
        loss = np.mean(peak + np.log(np.exp(scaled - peak[:, None]).sum(1)) - own / temperature)
        if loss < best:
            best, found = float(loss), float(temperature)
    return found


def ece(probabilities: np.ndarray, classes: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: how far sureness and accuracy lie apart, on average over bins.

    Parameters
    ----------
    probabilities : (n, C) array
        Predicted.
    classes : (n,) integer
        True.

    Examples
    --------
    >>> ece(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    0.4
    """
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == classes
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(
        np.bincount(place, sure, minlength=bins) - np.bincount(place, right, minlength=bins)
    )
    return float(round(gap.sum() / max(1, count.sum()), 6))
