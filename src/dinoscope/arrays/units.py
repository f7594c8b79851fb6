"""Units of length as microscopes' software writes them, in micrometres."""

from __future__ import annotations

import math

_UM = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "in": 25_400.0,
    "inch": 25_400.0,
}


def to_um(value: object, unit: str) -> float | None:
    """`value` in micrometres; ``None`` where it is no positive number or `unit` no known length.

    Examples
    --------
    >>> to_um("250", "nm"), to_um(0.5, "microns"), to_um(1, "pixel")
    (0.25, 0.5, None)
    """
    # ImageJ escapes the sign; there are two code points of the same look; metre is spelt both ways.
    name = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ").lower()
    name = name.replace("metre", "meter")
    factor = _UM.get(name, _UM.get(name.removesuffix("s"), _UM.get(name.removesuffix("es"))))
    try:
        number = float(value) * (factor or math.nan)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
