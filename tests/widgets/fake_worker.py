"""A worker that answers what a test tells it to, and results for it to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dinoscope.types import ImageInput, Summary
from dinoscope.worker.protocol import Event

MODELS = [
    {
        "name": "embedded",
        "kind": "model",
        "tasks": ("instance", "semantic", "depth", "classification"),
        "available": True,
        "where": "/weights/embedded.dinoscope",
        "note": "",
    },
    {
        "name": "only-instances",
        "kind": "model",
        "tasks": ("instance",),
        "available": True,
        "where": "/weights/only-instances.dinoscope",
        "note": "",
    },
    {
        "name": "dinov2_vits14",
        "kind": "backbone",
        "tasks": (),
        "available": False,
        "where": "https://example.org/dinov2_vits14",
        "note": "",
    },
]


class FakeJob:
    """A job whose events the test sends."""

    def __init__(
        self,
        kind: str,
        payload: Mapping[str, Any],
        images: Mapping[str, ImageInput],
        on_event: Callable[[Event], None],
    ) -> None:
        self.kind, self.payload, self.images = kind, payload, images
        self._on_event = on_event
        self.cancel_asked = False
        self.over = False

    def cancel(self) -> None:
        self.cancel_asked = True
        self.send("cancelled")

    def withdraw(self) -> None:
        self.cancel()

    def send(self, kind: str, **data: Any) -> None:
        if self.over:
            return
        self.over = kind in ("done", "error", "cancelled")
        self._on_event(Event(kind, data))

    def plane(self, index: tuple[int, ...] = (), **data: Any) -> None:
        self.send("plane", run="run1", index=index, **data)

    def done(self, **data: Any) -> None:
        self.send("done", **data)


class FakeClient:
    """Stands in for the worker client: remembers jobs, answers the quick ones at once."""

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []
        self.state = "stopped"
        self.closed = False
        self.answers: dict[str, dict[str, Any]] = {
            "models": {"models": MODELS},
            "device": {"device": "cpu", "name": "CPU", "note": ""},
            "estimate": {"seconds": 3.2, "memory_mb": 640.0, "note": ""},
        }

    def start(self) -> None:
        self.state = "ready"

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        return lambda: None

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        images: Mapping[str, ImageInput],
        on_event: Callable[[Event], None],
    ) -> FakeJob:
        job = FakeJob(kind, payload, images, on_event)
        self.jobs.append(job)
        if kind in self.answers:
            job.done(**self.answers[kind])
        return job

    def close(self) -> None:
        self.closed = True

    def last(self, kind: str) -> FakeJob:
        """The newest job of a kind."""
        return [job for job in self.jobs if job.kind == kind][-1]

    def count(self, kind: str) -> int:
        return sum(job.kind == kind for job in self.jobs)


def summary(**changes: Any) -> Summary:
    """What the worker says at the end of a run."""
    values: dict[str, Any] = {
        "model": "embedded",
        "model_hash": "0" * 8,
        "device": "cpu",
        "tasks": ("instance",),
        "planes": 1,
        "diameter_px": 20.0,
        "seconds": {"total": 1.5},
        "class_names": {"semantic": ("background", "nucleus", "cell")},
    }
    return Summary(**{**values, **changes})


def objects(*labels: int) -> dict[str, np.ndarray]:
    """A table of objects."""
    numbers = np.array(labels, dtype=np.int64)
    return {
        "label": numbers,
        "area_px": numbers * 10,
        "centroid_y": numbers.astype(float),
        "centroid_x": numbers.astype(float),
    }


def two_objects(height: int, width: int, first: int = 1) -> np.ndarray:
    """Ids of two rectangles."""
    ids = np.zeros((height, width), np.uint32)
    ids[: height // 3, : width // 3] = first
    ids[height // 2 :, width // 2 :] = first + 1
    return ids
