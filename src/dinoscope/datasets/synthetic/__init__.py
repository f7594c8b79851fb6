"""Made microscopy images with exact truth, quick enough to be made while a model trains."""

from __future__ import annotations

from dinoscope.datasets.synthetic.image import SEMANTIC_CLASSES, SyntheticImage
from dinoscope.datasets.synthetic.kinds import DIAMETERS_PX, KINDS, make, parameters

__all__ = ["DIAMETERS_PX", "KINDS", "SEMANTIC_CLASSES", "SyntheticImage", "make", "parameters"]
