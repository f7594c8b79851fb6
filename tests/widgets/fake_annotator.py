"""A worker that plays the jobs of the Annotate panel: each pixel goes to the nearest mean grey."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tests.widgets.fake_worker import MODELS, FakeClient, FakeJob

from dinoscope.errors import InputError
from dinoscope.types import ImageInput
from dinoscope.worker.protocol import Event


class FakeAnnotator(FakeClient):
    """Answers at once, unless a kind is in `silent`; forgets everything when it is `restart`-ed."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()
        self.strokes: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray, np.ndarray]] = {}
        self.images: dict[str, ImageInput] = {}
        self.sessions: set[str] = set()
        self._number = 0
        del self.answers["models"]
        self._listeners: list[Callable[[Event], None]] = []

    #: Whether the model has a semantic head of the classes that a session is opened with.
    own_classes = False

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def restart(self, *, announce: bool = False) -> None:
        """As a worker that was killed: it knows nothing any more."""
        self.strokes, self.images, self.sessions = {}, {}, set()
        if announce:
            for state in ("stopped", "starting", "ready"):
                for callback in list(self._listeners):
                    callback(Event("state", {"state": state}))

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        images: Mapping[str, ImageInput],
        on_event: Callable[[Event], None],
    ) -> FakeJob:
        job = super().submit(kind, payload, images, on_event)
        if kind not in self.silent:
            self.play(job)
        return job

    def play(self, job: FakeJob) -> None:
        """Answer a job now."""
        play = getattr(self, f"play_{job.kind}", None)
        if play is not None and not job.over:
            try:
                play(job)
            except InputError as error:
                job.send("error", error=error)

    def _session(self, job: FakeJob) -> None:
        if job.payload["session"] not in self.sessions:
            raise InputError(
                f"session {job.payload['session']!r} is not known", hint="Open it again."
            )

    def play_models(self, job: FakeJob) -> None:
        new = [{**MODELS[0], "name": file, "where": file} for file in job.payload["files"]]
        job.done(models=[*MODELS, *new])

    def play_annotate_open(self, job: FakeJob) -> None:
        self._number += 1
        session = f"s{self._number}"
        self.sessions.add(session)
        job.done(
            session=session,
            model=job.payload["model"],
            model_hash="0",
            embed_dim=8,
            own_classes=self.own_classes,
            notes=[],
        )

    def play_annotate_close(self, job: FakeJob) -> None:
        self.sessions.discard(job.payload["session"])
        job.done()

    def play_annotate_prepare(self, job: FakeJob) -> None:
        self._session(job)
        image = job.images["image"]
        self.images[job.payload["source"]] = image
        job.done(seconds=0.1, cached=False, shape=(image.size("Y"), image.size("X")))

    def _plane(self, source: str, index: tuple[int, ...]) -> np.ndarray:
        image = self.images[source]
        where = dict(zip(image.plane_axes, index, strict=True))
        key = tuple(where.get(a, slice(None)) for a in image.axes)
        plane = np.asarray(image.data[key], float)
        axes = [a for a in image.axes if a not in where]
        extra = tuple(i for i, a in enumerate(axes) if a in "CS")
        plane = plane.mean(axis=extra) if extra else plane
        left = [a for a in axes if a not in "CS"]
        return plane if left == ["Y", "X"] else plane.T

    def play_annotate_preview(self, job: FakeJob) -> None:
        self._session(job)
        payload = job.payload
        source, index = payload["source"], tuple(payload["index"])
        if "image" in job.images:
            self.images[source] = job.images["image"]
        for one in payload.get("strokes", ()):
            self.strokes[one["source"], tuple(one["index"])] = (one["pixels"], one["codes"])
        values: dict[int, list[np.ndarray]] = {}
        for (name, at), (pixels, codes) in self.strokes.items():
            if name not in self.images:
                continue
            grey = self._plane(name, at).reshape(-1)[pixels]
            for code in np.unique(codes):
                values.setdefault(int(code), []).append(grey[codes == code])
        if len(values) < 2:
            raise InputError("there are strokes of one class only", expected="two classes")
        known = sorted(values)
        means = np.array([np.concatenate(values[code]).mean() for code in known])
        plane = self._plane(source, index)
        steps = [(None, 4)] if payload["overview"] else []
        for region, step in steps + [(region, 1) for region in payload["regions"]]:
            y0, x0, y1, x1 = region or (0, 0, *plane.shape)
            far = np.abs(plane[y0:y1:step, x0:x1:step, None] - means)
            data: dict[str, Any] = {"labels": np.array(known, np.uint8)[far.argmin(axis=2)]}
            if "uncertainty" in payload["want"]:
                data["uncertainty"] = np.full(data["labels"].shape, 90, np.uint8)
            job.send("plane", source=source, index=index, region=region, step=step, **data)
        job.done(
            seconds={"fit": 0.01, "predict": 0.01},
            classes=tuple(known),
            notes=[],
        )

    def play_annotate_numbers(self, job: FakeJob) -> None:
        self._session(job)
        job.done(ece=0.031, temperature=1.1, accuracy_heldout=0.94)

    def play_annotate_next(self, job: FakeJob) -> None:
        self._session(job)
        source = sorted(job.payload["sources"])[-1]
        index = job.payload["sources"][source][-1]
        job.done(source=source, index=index, y=10.0, x=12.0, score=0.9)

    def play_annotate_strokes(self, job: FakeJob) -> None:
        self._session(job)
        payload = job.payload
        place = payload["source"], tuple(payload["index"])
        self.strokes[place] = (payload["pixels"], payload["codes"])
        job.done(count=len(payload["pixels"]))

    def play_annotate_objects(self, job: FakeJob) -> None:
        self._session(job)
        labels = job.payload["labels"]
        instances = np.zeros(labels.shape, np.uint32)
        ids = {}
        # Every block of 10 columns of a class is an object.
        for start in range(0, labels.shape[1], 10):
            part = labels[:, start : start + 10]
            code = int(part.max())
            if code > 1:
                ids[len(ids) + 1] = code
                instances[:, start : start + 10] = np.where(part > 1, len(ids), 0)
        job.done(instances=instances, classes=ids, table=_table(instances))

    def play_annotate_object_classes(self, job: FakeJob) -> None:
        self._session(job)
        planes = []
        given = [c for plane in job.payload["planes"] for c in plane["examples"].values()]
        for plane in job.payload["planes"]:
            numbers = [int(n) for n in np.unique(plane["instances"]) if n]
            classes = dict.fromkeys(numbers, given[-1]) | dict(plane["examples"])
            planes.append(
                {
                    "source": plane["source"],
                    "index": plane["index"],
                    "classes": classes,
                    "probabilities": np.ones((len(numbers), 1)),
                    "table": _table(plane["instances"]),
                }
            )
        job.done(**planes[0], planes=planes)

    def play_annotate_apply(self, job: FakeJob) -> None:
        self._session(job)
        if job.payload.get("files"):
            job.done(planes=0, files=job.payload["files"])
            return
        for source, image in job.images.items():
            for index in np.ndindex(image.plane_shape):
                labels = np.ones((image.size("Y"), image.size("X")), np.uint8)
                labels[:, image.size("X") // 2 :] = 2
                job.send("plane", source=source, index=index, labels=labels)
        job.done(planes=1, files=[])

    def play_annotate_save(self, job: FakeJob) -> None:
        job.done(path=job.payload["path"])

    def play_improve_plan(self, job: FakeJob) -> None:
        job.done(
            choice="lora-last:4",
            why="it fits into the time",
            seconds_per_step=0.5,
            estimated_minutes=8.0,
            validation="2 of 6 annotated regions, never trained on",
            enough=True,
            problems=(),
        )


def _table(instances: np.ndarray) -> dict[str, np.ndarray]:
    numbers = np.unique(instances)
    numbers = numbers[numbers > 0]
    areas = np.array([(instances == n).sum() for n in numbers])
    return {"label": numbers, "area_px": areas, "area_um2": areas * 4.0}
