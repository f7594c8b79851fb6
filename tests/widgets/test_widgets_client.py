"""Jobs as Qt signals; latest wins; one controller for each viewer."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from napari.components import ViewerModel

from dinoscope.errors import InputError, WorkerError
from dinoscope.widgets._client import Controller, LatestWins, controller_for
from dinoscope.worker.protocol import Event


@pytest.fixture
def controller(qtbot: Any, fake: Any) -> Controller:
    return Controller(ViewerModel())


def record(handle: Any) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []
    handle.progress.connect(lambda d: seen.append(("progress", d)))
    handle.plane.connect(lambda d: seen.append(("plane", d)))
    handle.done.connect(lambda d: seen.append(("done", d)))
    handle.failed.connect(lambda e: seen.append(("failed", e)))
    handle.cancelled.connect(lambda: seen.append(("cancelled",)))
    handle.finished.connect(lambda: seen.append(("finished",)))
    return seen


def test_events_from_another_thread_arrive_in_the_window_s_thread(
    controller: Controller, fake: Any, qtbot: Any
) -> None:
    handle = controller.submit("predict", {})
    where: list[Any] = []
    handle.done.connect(lambda d: where.append(threading.current_thread()))
    job = fake.last("predict")
    thread = threading.Thread(target=lambda: job.done(answer=1))
    thread.start()
    thread.join()
    assert where == []
    qtbot.waitUntil(lambda: bool(where))
    assert where == [threading.main_thread()]


def test_a_job_that_ends_at_once_is_not_missed(controller: Controller, qtbot: Any) -> None:
    seen = record(controller.submit("models", {}))
    qtbot.waitUntil(lambda: bool(seen))
    assert [s[0] for s in seen] == ["done", "finished"]


def test_nothing_is_emitted_after_the_end(controller: Controller, fake: Any, qtbot: Any) -> None:
    handle = controller.submit("predict", {})
    seen = record(handle)
    job = fake.last("predict")
    job.cancel()
    job._on_event(Event("plane", {}))
    qtbot.waitUntil(lambda: len(seen) == 2)
    qtbot.wait(20)
    assert [s[0] for s in seen] == ["cancelled", "finished"]
    assert not handle.running


def test_errors_keep_their_text(controller: Controller, fake: Any, qtbot: Any) -> None:
    seen = record(controller.submit("predict", {}))
    fake.last("predict").send("error", error=InputError("diameter is 0", hint="Measure it."))
    qtbot.waitUntil(lambda: bool(seen))
    assert "Measure it." in str(seen[0][1])


def test_a_worker_that_cannot_be_asked_is_an_error_of_the_job(
    controller: Controller, fake: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise WorkerError("the worker was closed")

    monkeypatch.setattr(fake, "submit", refuse)
    seen = record(controller.submit("predict", {}))
    qtbot.waitUntil(lambda: len(seen) == 2)
    assert seen[0][0] == "failed"


def test_only_the_latest_request_runs(controller: Controller, fake: Any, qtbot: Any) -> None:
    asked: list[int] = []

    def send(what: int) -> Any:
        asked.append(what)
        return controller.submit("redecode", {"what": what})

    latest = LatestWins(send, interval_ms=10)
    for number in range(5):
        latest.request(number)
    qtbot.waitUntil(lambda: asked == [4])
    for number in range(5, 9):
        latest.request(number)
    qtbot.wait(40)
    assert asked == [4]
    fake.last("redecode").done()
    qtbot.waitUntil(lambda: asked == [4, 8])
    assert latest.busy
    fake.last("redecode").done()
    qtbot.waitUntil(lambda: not latest.busy)


def test_one_controller_for_each_viewer(qtbot: Any, fake: Any) -> None:
    first, second = ViewerModel(), ViewerModel()
    assert controller_for(first) is controller_for(first)
    assert controller_for(first) is not controller_for(second)


def test_a_dropped_model_is_asked_for_and_announced(
    controller: Controller, fake: Any, qtbot: Any
) -> None:
    chosen: list[str] = []
    controller.model_chosen.connect(chosen.append)
    controller.choose_model("/somewhere/yeast.dinoscope")
    assert chosen == ["/somewhere/yeast.dinoscope"]
    assert fake.last("models").payload["files"] == ["/somewhere/yeast.dinoscope"]


def test_closing_ends_the_worker_and_the_next_job_starts_one(
    controller: Controller, fake: Any, qtbot: Any
) -> None:
    handle = controller.submit("predict", {})
    seen = record(handle)
    controller.close()
    assert fake.closed
    fake.last("predict").done()
    qtbot.wait(20)
    assert seen == []
    controller.submit("predict", {})
    assert fake.count("predict") == 2
