"""Jobs around a prediction: run it, change its objects, tell its cost, measure object size."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.config import InstanceOptions, PredictOptions
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import PlaneOutput, Progress, Summary, Table
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.protocol import Event
from dinoscope.worker.runs import RunStore

if TYPE_CHECKING:
    from dinoscope.arrays.calibrate import Calibration
    from dinoscope.models.model import Model

#: Planes whose basins are kept, so that only the first slider move of a plane cuts it.
_KEPT_BASINS = 8
#: Planes of a finished run that are cut before a slider moves.
_CUT_AHEAD = 2
_basins: OrderedDict[tuple[str, tuple[int, ...]], np.ndarray] = OrderedDict()
_basins_lock = threading.Lock()


def predict(context: JobContext) -> Steps:
    """Run a model over the image; a ``plane`` event for each plane, maps are kept for sliders."""
    from dinoscope.engine import predict as engine

    options = _options(context)
    model = yield from _load(context, options)
    planes = _Planes(context, options)
    steps = engine.predict(context.image, model, options, _calibration(context))
    try:
        while True:
            step = next(steps)
            if isinstance(step, PlaneOutput):
                yield from planes.send(step)
            else:
                yield step
    except StopIteration as stop:
        return planes.finish(stop.value)
    finally:
        steps.close()


class _Planes:
    """Keeps the maps of finished planes and sends the rest to the window."""

    def __init__(self, context: JobContext, options: PredictOptions) -> None:
        self._context = context
        self._runs = context.tools.runs
        self._run: str | None = None
        self._note = ""
        self._sending_s = 0.0
        image = context.image
        if options.keep_maps:
            with self._disk():
                self._run = str(context.number)
                info = {
                    "region": options.region or (0, 0, image.size("Y"), image.size("X")),
                    "pixel_size_um": dict(image.pixel_size_um),
                    "plane_axes": image.plane_axes,
                }
                self._runs.create(self._run, info)

    def send(self, output: PlaneOutput) -> Any:
        """One ``plane`` event; goes on when the window has taken it."""
        maps = output.maps.get("instance")
        if self._run is not None and maps is not None:
            with self._disk():
                self._runs.keep(self._run, output.index, maps)
                if output.classes is not None:
                    self._runs.keep_classes(
                        self._run, output.index, output.arrays["instance"], output.classes
                    )
        data = {
            "run": self._run,
            "index": output.index,
            "arrays": dict(output.arrays),
            "objects": output.objects,
            "classes": output.classes,
        }
        began = time.perf_counter()
        yield Event("plane", data)
        self._sending_s += time.perf_counter() - began

    def finish(self, summary: Summary) -> Mapping[str, Any]:
        """The last event's data; ``transfer`` is the time that pixels and results travelled."""
        waited = float(getattr(self._context.image.data, "waited_s", 0.0))
        seconds = dict(summary.seconds)
        seconds["transfer"] = waited + self._sending_s
        if "other" in seconds:
            seconds["other"] = max(0.0, seconds["other"] - seconds["transfer"])
        notes = (*summary.notes, self._note) if self._note else summary.notes
        summary = dataclasses.replace(summary, seconds=seconds, notes=notes)
        if self._run is not None:
            threading.Thread(target=_cut_ahead, args=(self._runs, self._run), daemon=True).start()
        return {"run": self._run, "summary": summary}

    @contextlib.contextmanager
    def _disk(self) -> Any:
        """Results count more than sliders: a full disk costs only the latter."""
        try:
            yield
        except OSError as error:
            if self._run is not None:
                self._runs.forget(self._run)
            self._run = None
            self._note = (
                "Threshold and size cannot be changed afterwards, for there is no room to keep "
                f"what that needs ({error.strerror or error})."
            )


def redecode(context: JobContext) -> Steps:
    """Objects of a finished run with other options, without the network."""
    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.decode import decode_instances
    from dinoscope.arrays.objects import object_table

    payload, runs = context.payload, context.tools.runs
    run, options = str(payload["run"]), payload.get("options") or InstanceOptions()
    info = runs.info(run)
    wanted = payload.get("indices")
    indices = runs.indices(run) if wanted is None else [tuple(map(int, i)) for i in wanted]
    next_id = int(payload.get("first_id", 1))
    region = tuple(info["region"])
    for number, index in enumerate(indices):
        maps = runs.maps(run, index)
        ids = decode_instances(maps, options, _basins_of(run, index, maps))
        pixels = None
        if "image" in context.images:
            pixels = read_plane(context.image, index, region=region)
        objects = object_table(
            ids,
            pixels,
            info["pixel_size_um"],
            index,
            info["plane_axes"],
            origin=info["region"][:2],
            foreground=maps[0],
        )
        classes = _carry_classes(runs, run, index, ids, objects)
        found = int(ids.max(initial=0))
        objects["label"] = objects["label"] + (next_id - 1)
        if classes is not None:
            classes["object"] = classes["object"] + (next_id - 1)
        ids = np.where(ids > 0, ids + np.uint32(next_id - 1), 0).astype(np.uint32)
        next_id += found
        yield Event(
            "plane",
            {
                "run": run,
                "index": index,
                "arrays": {"instance": ids},
                "objects": objects,
                "classes": classes,
            },
        )
        yield Progress("objects", number + 1, len(indices))
    return {"run": run, "next_id": next_id}


def _basins_of(run: str, index: tuple[int, ...], maps: np.ndarray) -> np.ndarray:
    """The plane cut among its objects; remembered for the next slider move."""
    from dinoscope.arrays.decode import basins

    with _basins_lock:
        key = (run, index)
        if key not in _basins:
            _basins[key] = basins(maps)
            while len(_basins) > _KEPT_BASINS:
                _basins.popitem(last=False)
        _basins.move_to_end(key)
        return _basins[key]


def _cut_ahead(runs: RunStore, run: str) -> None:
    """Cut the first planes of a run while nobody waits for it."""
    with contextlib.suppress(DinoscopeError, OSError):  # forgotten meanwhile
        for index in runs.indices(run)[:_CUT_AHEAD]:
            _basins_of(run, index, runs.maps(run, index))


def _carry_classes(
    runs: RunStore, run: str, index: tuple[int, ...], ids: np.ndarray, objects: Table
) -> Table | None:
    """Give each object the class of the predicted object it covers most of; ``None`` without any.

    An object that covers none has no class: the network has not seen it as one.
    """
    kept = runs.classes(run, index)
    if kept is None:
        return None
    before, table = kept
    source = largest_overlap(ids, before)[objects["label"].astype(int)]
    row_of = {int(label): row for row, label in enumerate(table["object"])}
    rows = np.array([row_of.get(int(label), -1) for label in source], dtype=int)
    known = rows >= 0
    classes = {name: column[rows[known]] for name, column in table.items()}
    classes["object"] = objects["label"][known].astype(int)
    names = np.full(len(rows), "", dtype=object)
    names[known] = classes["class"]
    probability = np.full(len(rows), np.nan, np.float32)
    probability[known] = classes["probability"]
    objects["class"], objects["probability"] = names, probability
    return classes


def largest_overlap(ids: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each id of `ids` the id of `other` with which it shares most pixels, 0 for none.

    Parameters
    ----------
    ids, other : (Y, X) integer arrays
        0 = background.

    Returns
    -------
    (n + 1,) int64
        Indexed by id; entry 0 is 0.
    """
    found = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    both = (ids > 0) & (other > 0)
    pairs, counts = np.unique(np.stack([ids[both], other[both]]), axis=1, return_counts=True)
    order = np.argsort(counts, kind="stable")  # the largest comes last and stays
    found[pairs[0, order].astype(np.int64)] = pairs[1, order]
    return found


def estimate(context: JobContext) -> Mapping[str, Any]:
    """What a run will cost on this machine."""
    from dinoscope.engine.cost import estimate_cost

    options = _options(context)
    model = context.tools.models.get(context.payload["model"], options.device)
    cost = dict(estimate_cost(context.image, model, options, context.payload.get("diameter_px")))
    return {**cost, "note": memory_note(float(cost["memory_mb"]), free_memory_mb())}


def memory_note(needed_mb: float, free_mb: float | None) -> str:
    """What to say where a run needs more main memory than is free; else nothing."""
    if free_mb is None or needed_mb < free_mb:
        return ""
    return (
        f"Needs about {needed_mb / 1000:.1f} GB, and {free_mb / 1000:.1f} GB are free: "
        "choose the visible region or a smaller model."
    )


def free_memory_mb() -> float | None:
    """Main memory that programs can have now, where the system tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1000
    return None


def diameter(context: JobContext) -> Steps:
    """The typical object diameter that the model sees, in pixels of the image."""
    from dinoscope.engine.lent import lender_of
    from dinoscope.engine.opening import open_runner, prepare
    from dinoscope.engine.scale import estimate_diameter

    options = _options(context)
    model = yield from _load(context, options)
    model = lender_of(model, dataclasses.replace(options, tasks=("instance",))) or model
    if "instance" not in model.card.heads:
        raise InputError(
            f"model {model.card.name!r} does not look for objects",
            expected="a model with an instance head",
            hint="Measure one on the image instead.",
        )
    runner, _ = open_runner(model, options)
    yield Progress("diameter", 0, 1, message="looking at the image")
    prepared = prepare(context.image, model, options, _calibration(context))
    return {"diameter_px": estimate_diameter(prepared, runner)}


def forget(context: JobContext) -> Mapping[str, Any]:
    """Remove the kept maps of a run."""
    context.tools.runs.forget(str(context.payload["run"]))
    return {}


def _options(context: JobContext) -> PredictOptions:
    """The options with this worker's threads, where they leave that open."""
    options: PredictOptions = context.payload["options"]
    return dataclasses.replace(
        options,
        threads=options.threads or context.tools.threads,
        keep_maps="instance" in options.tasks,
        wait_for_runtime=False,
    )


def _load(context: JobContext, options: PredictOptions) -> Any:
    """Load the model; yields progress, returns the model."""
    name = str(context.payload["model"])
    yield Progress("load", 0, 1, message=f"loading {Path(name).stem}")
    model: Model = context.tools.models.get(
        name,
        options.device,
        allow_download=bool(context.payload.get("allow_download", False)),
        report=context.report,
    )
    return model


def _calibration(context: JobContext) -> Calibration | None:
    from dinoscope.arrays.calibrate import Calibration, read_calibration

    given = context.payload.get("calibration") or {}
    frames = {}
    for name in ("dark", "flat"):
        frame = given.get(name)
        if isinstance(frame, (str, Path)):
            read = read_calibration(**{name: frame})
            frame = getattr(read, name)
        frames[name] = frame
    if all(frame is None for frame in frames.values()):
        return None
    return Calibration(**frames)
