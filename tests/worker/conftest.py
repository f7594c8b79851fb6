"""Clients whose worker knows the jobs of ``worker_jobs.py`` and never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dinoscope.worker.client import WorkerClient

JOBS = Path(__file__).with_name("worker_jobs.py")


@pytest.fixture
def make_client() -> Iterator[Callable[..., WorkerClient]]:
    """A function that makes bare clients; they are closed afterwards."""
    made: list[WorkerClient] = []

    def make(**options: object) -> WorkerClient:
        settings: dict[str, object] = {"warm_up": False, "job_modules": [JOBS]} | options
        made.append(WorkerClient(**settings))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., WorkerClient]) -> WorkerClient:
    return make_client()
