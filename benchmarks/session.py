"""A worker as the window holds it, and images as a microscope's software gives them: lazily."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.config import PredictOptions
from dinoscope.types import ImageInput
from dinoscope.worker.client import Job, WorkerClient
from dinoscope.worker.protocol import Event

SIDE = 1024


@contextmanager
def worker() -> Iterator[WorkerClient]:
    """A warm worker."""
    client = WorkerClient()
    try:
        client.start()
        client.submit("device", {}).wait(120)
        yield client
    finally:
        client.close()


def nuclei(side: int = SIDE, seed: int = 0) -> np.ndarray:
    """A made field of nuclei, ``(side, side)`` uint16."""
    from dinoscope.datasets.synthetic import make

    made = make("nuclei", (side, side), seed=seed, diameter=28)
    return (made.image[0] * 4000).astype(np.uint16)


@dataclass
class LazyStack:
    """A T stack that holds one plane, whatever its length: pixels are made when they are read."""

    plane: np.ndarray
    planes: int
    dtype: Any = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.plane.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.planes, *self.plane.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        number, rest = key[0], key[1:]
        if isinstance(number, slice):
            chosen = range(*number.indices(self.planes))
            return np.stack([np.roll(self.plane, 7 * t, 1) for t in chosen])[(slice(None), *rest)]
        return np.roll(self.plane, 7 * int(number), 1)[rest]


def stack(planes: int) -> ImageInput:
    """A time series of `planes` planes of 1024²."""
    return ImageInput(LazyStack(nuclei(), planes), "TYX", name=f"{planes} planes")


@dataclass
class Timed:
    """When things came back from a run."""

    started: float = field(default_factory=time.perf_counter)
    first_plane: float | None = None
    planes: int = 0
    ended: float = 0.0
    outcome: Event | None = None

    def __call__(self, event: Event) -> None:
        now = time.perf_counter() - self.started
        if event.kind == "plane":
            self.planes += 1
            self.first_plane = self.first_plane if self.first_plane is not None else now
        elif event.kind in ("done", "error", "cancelled"):
            self.ended, self.outcome = now, event


def submit(client: WorkerClient, model: str | Path, image: ImageInput, timed: Timed) -> Job:
    """Ask for a prediction as the panel does."""
    options = PredictOptions(tasks=("instance",), keep_maps=True)
    payload = {"model": str(model), "options": options}
    return client.submit("predict", payload, {"image": image}, timed)


def predict(client: WorkerClient, model: str | Path, image: ImageInput) -> Timed:
    """Run a prediction to its end.

    Raises
    ------
    RuntimeError
        It did not end well.
    """
    timed = Timed()
    submit(client, model, image, timed).wait(1200)
    if timed.outcome is None or timed.outcome.kind != "done":
        raise RuntimeError(f"the run ended with {timed.outcome}")
    return timed


def random_vit_small(folder: Path) -> Path:
    """A ViT-S model file with random weights, made by a process of its own."""
    path = folder / "vits.dinoscope"
    command = [sys.executable, "-m", "benchmarks.random_model", "dinov2_vits14", str(path)]
    subprocess.run(command, check=True)
    return path
