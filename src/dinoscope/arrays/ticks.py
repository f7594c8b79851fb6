"""Round numbers along an axis."""

from __future__ import annotations

import numpy as np


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two values.

    Examples
    --------
    >>> ticks(-0.3, 9.7)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    if not (np.isfinite(low) and np.isfinite(high)) or high <= low:
        return []
    raw = (high - low) / max(most, 1)
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = int(np.ceil(low / step))
    last = int(np.floor(high / step))
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
