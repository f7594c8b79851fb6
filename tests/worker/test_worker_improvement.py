"""The deep loop as jobs: progress, pause, cancel, and a worker that was killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.conftest import discs
from tests.engine.improve.conftest import QUICK

from dinoscope.models.card import HeadSpec
from dinoscope.models.checkpoint import save_model
from dinoscope.models.model import Model
from dinoscope.project import Project
from dinoscope.types import ImageInput
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.protocol import Event

STEPS = replace(QUICK, tune="heads", steps=4)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Four images that have no file: the window lends them. It stays open, as in napari."""
    heads = {"semantic": HeadSpec("dense", 2, ("background", "disc"))}
    model = Model.fresh("tiny-test", heads, diameter_px=None, tile=(56, 84))
    save_model(model, tmp_path / "base.dinoscope")
    made = Project.create(tmp_path / "discs.dinoproject", ["background", "disc"])
    for seed in range(4):
        pixels, ids = discs(seed, (60, 70), 4)
        source = made.add_source(ImageInput(pixels, "YX", {}, f"discs {seed}"))
        chosen = np.arange(0, ids.size, 7)
        made.record(source, (), "paint", chosen, np.where(ids.ravel()[chosen] > 0, 2, 1))
    made.flush()
    return made


def lent(project: Project) -> dict[str, ImageInput]:
    images = [ImageInput(discs(s, (60, 70), 4)[0], "YX", {}, f"discs {s}") for s in range(4)]
    return dict(zip(project.sources, images, strict=True))


def payload(project: Project, **more: Any) -> dict[str, Any]:
    base = project.folder.parent / "base.dinoscope"
    return {"project": str(project.folder), "model": str(base), "options": STEPS, **more}


def until(told: list[Event], what: Callable[[Event], bool], timeout_s: float = 240) -> Event:
    """The first event that is wanted."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        for event in list(told):
            if what(event):
                return event
        time.sleep(0.02)
    raise TimeoutError(f"{len(told)} events, none wanted: {told[-1:]}")


def test_a_round_with_lent_images_while_the_window_has_the_project(
    make_client: Callable[..., WorkerClient], project: Project
) -> None:
    client = make_client(job_modules=[])
    plan = client.submit("improve_plan", payload(project), lent(project)).wait(240).data
    assert plan["enough"]
    assert plan["choice"] == "heads"
    assert plan["problems"] == ()
    told: list[Event] = []
    job = client.submit("improve", payload(project), lent(project), told.append)
    data = job.wait(240).data
    assert data["round"] == 1
    assert Path(data["output"]).is_file()
    assert {"before", "after", "better", "kept", "tune", "notes", "validation"} <= set(data)
    values = [e.data["values"] for e in told if e.kind == "progress"]
    assert any("loss_semantic" in v and "lr" in v for v in values)
    assert any("val_iou" in v for v in values)
    assert project.rounds[0].after == data["after"]
    project.close()


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals here")
def test_paused_then_killed_then_gone_on_with(
    make_client: Callable[..., WorkerClient], project: Project
) -> None:
    client = make_client(job_modules=[])
    told: list[Event] = []
    long = payload(project, options=replace(STEPS, tune="lora-last:1", steps=400))
    job = client.submit("improve", long, lent(project), told.append)
    until(told, lambda e: "heads: step" in str(e.data.get("message")))
    client.submit("improve_pause", {"project": long["project"], "paused": True}).wait(60)
    until(told, lambda e: e.data.get("message") == "paused")
    trained = sum("step" in str(e.data.get("message")) for e in told)
    time.sleep(0.5)
    assert sum("step" in str(e.data.get("message")) for e in told) == trained
    client.submit("improve_pause", {"project": long["project"], "paused": False}).wait(60)
    until(told, lambda e: f"step {trained + 1}" in str(e.data.get("message")))
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    assert job.wait(60).kind == "error"
    assert project.rounds[0].state == "training"
    project.record(next(iter(project.sources)), (), "paint", np.array([1]), 2)  # nothing is lost
    from dinoscope.project.rounds import write_round

    options = {**project.rounds[0].options, "steps": 4}
    write_round(project.folder, replace(project.rounds[0], options=options))
    again = payload(project, options=replace(STEPS, resume=True))
    data = client.submit("improve", again, lent(project)).wait(240).data
    assert data["round"] == 1
    assert project.rounds[0].state == "done"
    project.close()
