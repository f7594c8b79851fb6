"""The jobs of the deep loop: what an improvement would take, the improvement, its pauses."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinoscope.config import ImproveOptions
from dinoscope.errors import InputError
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.models import plain

#: How often a paused round looks whether it may go on.
_POLL_S = 0.05


class Clock:
    """Seconds that stand still while a round is paused."""

    def __init__(self) -> None:
        self._paused = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._paused

    def skip(self, seconds: float) -> None:
        """Seconds that do not count."""
        self._paused += seconds


def improve(context: JobContext) -> Steps:
    """Train on a project's annotations; see the table in :mod:`dinoscope.worker.jobs`."""
    from dinoscope.engine.improve.improve import improve as run

    payload = context.payload
    options: ImproveOptions = payload.get("options") or ImproveOptions()
    options = dataclasses.replace(options, threads=options.threads or context.tools.threads)
    clock, key = Clock(), _key(payload)
    paused = context.tools.paused
    paused.discard(key)
    steps = run(
        payload["project"],
        options,
        base=payload.get("model") or None,
        images=context.images,
        clock=clock,
        allow_download=bool(payload.get("allow_download", False)),
    )
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                return dict(plain(stop.value))
            yield event
            begun = time.monotonic()
            while key in paused:
                yield dataclasses.replace(event, message="paused", values={})
                time.sleep(_POLL_S)
            clock.skip(time.monotonic() - begun)
    finally:
        steps.close()
        paused.discard(key)


def pause(context: JobContext) -> Mapping[str, Any]:
    """Let the improvement of a project stand still, or go on."""
    key, value = _key(context.payload), bool(context.payload.get("paused", True))
    if value:
        context.tools.paused.add(key)
    else:
        context.tools.paused.discard(key)
    return {"paused": value}


def plan(context: JobContext) -> Steps:
    """What an improvement would train here, how long that takes and what judges it."""
    from dinoscope.engine.improve.plan import plan as run

    payload = context.payload
    options: ImproveOptions = payload.get("options") or ImproveOptions(
        minutes=float(payload.get("minutes", 10.0))
    )
    options = dataclasses.replace(options, threads=options.threads or context.tools.threads)
    steps = run(
        payload["project"], options, base=payload.get("model") or None, images=context.images
    )
    found = yield from steps
    return dict(plain(found))


def _key(payload: Mapping[str, Any]) -> str:
    if not payload.get("project"):
        raise InputError("no project was named", expected="the folder of a project")
    return str(Path(payload["project"]).expanduser().resolve())
