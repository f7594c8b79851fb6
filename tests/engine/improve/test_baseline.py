"""The fast loop as the judge sees it: alone, and with a model's own head of the same classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.engine.improve.conftest import drive

from dinoscope.arrays.normalize import Normalization
from dinoscope.engine.improve.baseline import FastLoop
from dinoscope.engine.improve.material import gather
from dinoscope.models.card import HeadSpec
from dinoscope.models.model import Model
from dinoscope.project import Project


def test_a_model_s_own_head_joins_where_it_is_asked_for(
    make_project: Callable[..., Project], full_model: Model
) -> None:
    project = make_project(2)
    classes = ("background", "disc")
    full_model.keep_heads(["instance"])
    full_model.add_head("semantic", HeadSpec("dense", 2, classes))
    with torch.no_grad():  # sure of discs everywhere
        full_model.heads["semantic"].out.bias += torch.tensor([-30.0, 30.0]).repeat_interleave(4)  # type: ignore[union-attr, operator]
    material = gather(project, Normalization.from_json(full_model.card.normalization))
    images = {p.source: project.open_image(p.source) for p in material.planes}
    share = {}
    for joined in (False, True):
        loop = FastLoop(full_model, images, classes, joined=joined)
        assert drive(loop.fit(material.planes))[0]
        maps, _ = drive(loop.probabilities(material.planes[0]))
        loop.close()
        assert np.allclose(maps.sum(0), 1, atol=1e-2)
        share[joined] = float((maps.argmax(0) == 1).mean())
    assert share[True] > 1.1 * share[False]


def test_it_leaves_the_other_cores_to_the_window(
    make_project: Callable[..., Project], full_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("dinoscope.config.machine.available_cores", lambda: 3)
    project = make_project(2)
    material = gather(project, Normalization.from_json(full_model.card.normalization))
    images = {p.source: project.open_image(p.source) for p in material.planes}
    for threads, taken in ((1, 1), (2, 2), (0, 3)):
        loop = FastLoop(full_model, images, ("background", "disc"), threads=threads)
        assert drive(loop.fit(material.planes))[0]
        loop.close()
        assert torch.get_num_threads() == taken  # which is what the training then goes on with
