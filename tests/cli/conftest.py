"""A tiny random model with all heads, and a driver of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.files import write_image
from dinoscope.cli import main


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        value: dict[str, Any] = json.loads(self.out)
        return value


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process."""

    def call(*argv: object) -> Outcome:
        capsys.readouterr()
        status = main([str(a) for a in argv])
        streams = capsys.readouterr()
        return Outcome(status, streams.out, streams.err)

    return call


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model on the tiny backbone with a head for every task."""
    from dinoscope.models.checkpoint import save_model
    from dinoscope.models.model import Model
    from dinoscope.tasks.base import task

    classes = {"semantic": ("background", "cell", "rod"), "classification": ("round", "long")}
    heads = {
        name: task(name).head_spec(classes.get(name, ()))
        for name in ("instance", "semantic", "depth", "classification")
    }
    path = tmp_path_factory.mktemp("models") / "tiny.dinoscope"
    model = Model.fresh("tiny-test", heads, name="tiny", tile=(112, 224), diameter_px=20.0)
    save_model(model, path, include_backbone=True)
    return path


@pytest.fixture(scope="session")
def spots() -> np.ndarray:
    """Bright discs on a dark ground, (120, 140) uint16."""
    rng = np.random.default_rng(0)
    image = rng.integers(80, 120, (120, 140)).astype(np.float32)
    rows, columns = np.mgrid[:120, :140]
    for row in range(20, 120, 30):
        for column in range(20, 140, 30):
            image += 800 * ((rows - row) ** 2 + (columns - column) ** 2 < 100)
    return image.astype(np.uint16)


@pytest.fixture
def image_file(tmp_path: Path, spots: np.ndarray) -> Path:
    """`spots` as OME-TIFF with a pixel size of 0.5 µm."""
    path = tmp_path / "spots.tif"
    write_image(path, spots, "YX", {"Y": 0.5, "X": 0.5})
    return path
