"""Libraries that take seconds to import, loaded while others get their turn."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Generator, Sequence

#: What training needs beyond a prediction: LoRA layers, and what the first optimiser imports.
TRAINING = ("peft", "torch._dynamo")
#: Seconds between two looks at whether they are there.
_LOOK_S = 0.05

_loaders: dict[str, threading.Thread] = {}


def imported(names: Sequence[str] = TRAINING) -> Generator[str, None, None]:
    """Import modules in a thread; yields the name of the one that is waited for.

    An import that fails is left to whoever needs it: it fails there again, with its reason.
    """
    for name in names:
        loader = _loaders.get(name)
        if loader is None:
            loader = threading.Thread(
                target=_load, args=(name,), name=f"import {name}", daemon=True
            )
            _loaders[name] = loader
            loader.start()
        while loader.is_alive():
            yield name
            loader.join(_LOOK_S)


def _load(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # whatever a library does on import
        del _loaders[name]
