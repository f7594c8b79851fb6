"""Models in the worker: the list, their cards, and the few that stay loaded."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.errors import DinoscopeError
from dinoscope.types import Progress
from dinoscope.worker.jobs import JobContext
from dinoscope.worker.protocol import travels

if TYPE_CHECKING:
    from dinoscope.models.model import Model

#: Loaded models that are kept; comparing two on one view must not load them again and again.
KEPT_MODELS = 3
#: Loaded while the worker is idle.
FIRST_MODEL = "embedded"

_Key = tuple[str, int, int, str]


class ModelCache:
    """Loads models once, until their file changes."""

    def __init__(self) -> None:
        self._models: OrderedDict[_Key, Model] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        name: str,
        device: str,
        *,
        allow_download: bool = False,
        report: Callable[[Progress], None] | None = None,
    ) -> Model:
        """The model `name` (or file) on `device`, ready to predict.

        Raises
        ------
        DinoscopeError
            See :func:`dinoscope.models.checkpoint.load_model`.
        """
        from dinoscope.models.checkpoint import load_model
        from dinoscope.models.device import pick_device

        key = (*_version(name), pick_device(device))
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key]
            model = load_model(name, device=device, allow_download=allow_download, progress=report)
            self._models[key] = model
            while len(self._models) > KEPT_MODELS:
                self._models.popitem(last=False)
            return model

    def warm_up(self, threads: int) -> dict[str, Any]:
        """Import torch and the engine, load the first model; what was found.

        Returns
        -------
        dict
            As :func:`dinoscope.models.device.describe`, with ``model`` and, where that could not be
            loaded, ``problem``.
        """
        from dinoscope.config import PredictOptions
        from dinoscope.engine.opening import open_runner
        from dinoscope.models.device import describe, set_threads

        set_threads(threads)
        found: dict[str, Any] = {"model": FIRST_MODEL, "problem": ""}
        try:
            # Opening it also computes a first tile, to see whether bfloat16 is exact enough here.
            open_runner(self.get(FIRST_MODEL, "auto"), PredictOptions(threads=threads))
        except DinoscopeError as error:
            found["problem"] = str(error)
        return {**describe(), **found}


def _version(name: str) -> tuple[str, int, int]:
    """Name and version of what would be loaded: a file that was written again is another model."""
    from dinoscope.models.catalog import locate

    found = locate(name)
    if isinstance(found, Path):
        try:
            stat = found.stat()
        except OSError:
            return str(found), 0, 0  # loading says what is wrong with it
        return str(found.resolve()), stat.st_mtime_ns, stat.st_size
    return found.name, 0, 0


def models(context: JobContext) -> Mapping[str, Any]:
    """What can be loaded, and the given ``files``; one that cannot be used says why in ``note``."""
    from dinoscope.models.catalog import list_models
    from dinoscope.models.folders import models_dir

    entries = list_models()
    places = {str(entry["where"]) for entry in entries}
    ready = {str(entry["name"]) for entry in entries if entry["available"]}
    more = [Path(file) for file in context.payload.get("files", ()) if str(file) not in places]
    return {
        "models": entries + [_file_entry(path, ready) for path in more],
        "folder": str(models_dir()),
    }


def _file_entry(path: Path, ready: set[str]) -> dict[str, Any]:
    """As :func:`dinoscope.models.catalog.list_models` has them; ``name`` is the whole path."""
    from dinoscope.models.catalog import lent_tasks
    from dinoscope.models.container import includes_backbone, read_card

    entry: dict[str, Any] = {"name": str(path), "kind": "model", "tasks": (), "available": False}
    entry |= {"lent_tasks": (), "where": str(path), "backbone": "", "note": ""}
    try:
        card = read_card(path)
        complete = includes_backbone(path)
    except DinoscopeError as error:
        return entry | {"note": str(error)}
    return entry | {
        "kind": "model" if complete else "adapter",
        "tasks": tuple(card.heads),
        "lent_tasks": lent_tasks(card),
        "available": complete or card.backbone in ready,
        "backbone": card.backbone,
    }


def inspect(context: JobContext) -> Mapping[str, Any]:
    """The card of ``model`` as plain values."""
    from dinoscope.models.catalog import inspect as read_card

    return {"card": plain(read_card(context.payload["model"]).to_json())}


def device(context: JobContext) -> Mapping[str, Any]:
    """What would be computed on."""
    from dinoscope.models.device import describe, set_threads

    set_threads(context.tools.threads)
    return describe(context.payload.get("device", "auto"))


def plain(value: Any) -> Any:
    """`value` without types that the window's process would have to import."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if travels(type(value).__module__):
            return value
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value
