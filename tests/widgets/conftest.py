"""Every panel in these tests talks to a worker that the test plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.widgets.fake_annotator import FakeAnnotator
from tests.widgets.fake_worker import FakeClient

from dinoscope.widgets import _client


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Every controller made in the test talks to this client."""
    client = FakeClient()
    monkeypatch.setattr(_client, "_start_client", lambda: client)
    return client


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAnnotator:
    """Every controller made in the test talks to this worker."""
    client = FakeAnnotator()
    monkeypatch.setattr(_client, "_start_client", lambda: client)
    monkeypatch.setenv("DINOSCOPE_PROJECTS", str(tmp_path / "projects"))
    return client


@pytest.fixture
def open_annotate(viewer: Any, qtbot: Any) -> Callable[..., Any]:
    from dinoscope.widgets.annotate import AnnotatePanel

    def make(*, begin: bool = True) -> Any:
        panel = AnnotatePanel(viewer)
        qtbot.addWidget(panel, before_close_func=AnnotatePanel.teardown)
        panel.controller.warm_up()
        qtbot.waitUntil(lambda: bool(panel.controller.models))
        if begin:
            panel.runbar.run.click()
        return panel

    return make
