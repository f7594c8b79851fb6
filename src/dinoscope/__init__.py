"""dinoscope: a LoRA-tuned DINOv2 for microscopy, in napari, Python and the command line."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name -> module that defines it; loaded at first use, so that importing the package is
#: free.
_PUBLIC = {
    "DinoscopeError": "dinoscope.errors",
    "ImageInput": "dinoscope.types",
    "PlaneOutput": "dinoscope.types",
    "Progress": "dinoscope.types",
    "InstanceOptions": "dinoscope.config",
    "PredictOptions": "dinoscope.config",
    "TrainOptions": "dinoscope.config",
    "read_image": "dinoscope.arrays.files",
    "load_model": "dinoscope.models.checkpoint",
    "predict": "dinoscope.engine.predict",
    "run_prediction": "dinoscope.engine.predict",
    "train": "dinoscope.engine.train",
    "evaluate": "dinoscope.engine.evaluate",
    "height_map": "dinoscope.arrays.focus",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dinoscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
