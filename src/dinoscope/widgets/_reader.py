"""Dropping a model file on napari selects it in the Predict panel; no layer is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_PLUGIN = "napari-dinoscope"


def get_reader(path: str | Sequence[str]) -> Callable[..., list[tuple[Any, ...]]] | None:
    """The reader for ``.dinoscope`` files; ``None`` for anything else."""
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    if not paths or not all(str(p).endswith(".dinoscope") for p in paths):
        return None
    return open_models


def open_models(path: str | Sequence[str]) -> list[tuple[Any, ...]]:
    """Select the model in the Predict panel, which is opened if need be.

    Returns
    -------
    list
        ``[(None,)]``: handled, without a layer.
    """
    import napari

    from dinoscope.widgets._client import controller_for
    from dinoscope.widgets.predict import PredictPanel

    viewer = napari.current_viewer()
    if viewer is not None:
        controller = controller_for(viewer)
        if not controller.panels(PredictPanel):
            viewer.window.add_plugin_dock_widget(_PLUGIN, "Predict")
        for one in [path] if isinstance(path, (str, Path)) else list(path):
            controller.choose_model(str(Path(one).resolve()))
    return [(None,)]
