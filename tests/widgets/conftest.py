"""Every panel in these tests talks to a worker that the test plays."""

from __future__ import annotations

import pytest
from tests.widgets.fake_worker import FakeClient

from dinoscope.widgets import _client


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Every controller made in the test talks to this client."""
    client = FakeClient()
    monkeypatch.setattr(_client, "_start_client", lambda: client)
    return client
