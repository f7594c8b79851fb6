"""A project in which discs are annotated by strokes, and a small model to begin with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.conftest import discs

from dinoscope.config import ImproveOptions
from dinoscope.models.checkpoint import save_model
from dinoscope.models.model import Model
from dinoscope.project import Project
from dinoscope.types import ImageInput, Progress

#: Small steps that no clock decides about.
QUICK = ImproveOptions(
    steps=4, tune="lora-last:1", batch_size=2, crop_px=56, threads=1, device="cpu"
)


def add_discs(project: Project, seed: int, strokes: int = 400) -> str:
    """Add an image of discs; returns its id. Some pixels of both classes are annotated."""
    pixels, ids = discs(seed)
    image = ImageInput(pixels, "YX", {}, f"discs {seed}")
    source = project.add_source(image)
    project.keep_image(source, image)
    if strokes:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(ids.size, strokes, replace=False))
        codes = np.where(ids.ravel()[chosen] > 0, 2, 1)
        project.record(source, (), "paint", chosen, codes)
    return source


def drive(steps: Generator[Progress, None, Any]) -> tuple[Any, list[Progress]]:
    """Run to the end; what was returned, and all progress."""
    events = []
    try:
        while True:
            events.append(next(steps))
    except StopIteration as stop:
        return stop.value, events


@pytest.fixture
def base(full_model: Model, tmp_path: Path) -> Path:
    """A file of random weights with every head."""
    path = tmp_path / "base.dinoscope"
    save_model(full_model, path)
    return path


@pytest.fixture
def make_project(tmp_path: Path, base: Path) -> Iterator[Callable[..., Project]]:
    """A function that makes a project with so many annotated images of discs."""
    made: list[Project] = []

    def make(images: int = 4, strokes: int = 400) -> Project:
        project = Project.create(tmp_path / f"p{len(made)}.dinoproject", ["background", "disc"])
        made.append(project)
        project.set_settings(model=str(base))
        for seed in range(images):
            add_discs(project, seed, strokes)
        project.flush()
        return project

    yield make
    for project in made:
        project.close()
