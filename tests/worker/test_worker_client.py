"""Start, submit, cancel, kill: the client with real worker processes."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.errors import DinoscopeError, InputError, OutputError, WorkerError
from dinoscope.types import ImageInput
from dinoscope.worker.client import CANCEL_GRACE_S, Event, Job, WorkerClient
from dinoscope.worker.process import WorkerProcess
from dinoscope.worker.protocol import TERMINAL

JOBS = Path(__file__).with_name("worker_jobs.py")
HEAVY = {"torch", "timm", "peft", "sklearn", "scipy", "skimage", "tifffile", "zarr", "napari"}
posix = pytest.mark.skipif(os.name == "nt", reason="signals")


class Events(list[Event]):
    """Collects events; :meth:`wait_for` waits for the first of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: str, timeout_s: float = 10) -> Event:
        with self._changed:
            arrived = self._changed.wait_for(lambda: kind in self.kinds, timeout_s)
        assert arrived, f"no {kind} event among {self.kinds}"
        return next(event for event in self if event.kind == kind)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self]

    @property
    def last_ones(self) -> list[str]:
        return [kind for kind in self.kinds if kind in TERMINAL]


def wait_until(condition: Callable[[], Any], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def dead(pid: int) -> bool:
    """Whether the process is gone, or a zombie that its parent has yet to look at."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def blocks_of(client: WorkerClient) -> list[str]:
    session = client._session
    assert session is not None
    names = [p.name for folder in session.blocks for p in folder.iterdir()]
    return [name for name in names if name.startswith(("to", "from"))]


def begun(client: WorkerClient, kind: str, payload: dict[str, Any] | None = None) -> Job:
    """A job that the worker has begun."""
    job = client.submit(kind, payload)
    wait_until(lambda: client.state == "busy")
    return job


# Start and end


def test_start_and_submit_return_at_once(client: WorkerClient) -> None:
    began = time.monotonic()
    client.start()
    job = client.submit("echo", {"n": 1})
    assert time.monotonic() - began < 0.1
    assert client.state == "starting"
    assert not client.alive
    assert job.wait(20).data == {"n": 1}
    assert client.alive


def test_the_worker_is_another_process_with_less_priority_and_nothing_heavy(
    make_client: Callable[..., WorkerClient],
) -> None:
    client = make_client(threads=1)
    facts = client.submit("facts").wait(20).data
    assert facts["pid"] == client.pid != os.getpid()
    assert not HEAVY & set(facts["modules"])
    # Half a second alone; processor time, because the clock runs on while others compute.
    assert facts["cpu_s"] < 1.5
    assert facts["threads"] == "1"
    if facts["nice"] is not None:
        assert facts["nice"] >= min(19, os.nice(0) + 5)


def test_a_file_in_the_users_folder_cannot_replace_a_library(
    client: WorkerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not the library')")
    monkeypatch.chdir(tmp_path)
    assert client.submit("echo", {}).wait(20).kind == "done"


def test_states_are_told_in_order(client: WorkerClient) -> None:
    events = Events()
    client.subscribe(events)
    client.submit("echo").wait(20)
    client.close()
    states = [event.data["state"] for event in events]
    assert states[0] == "starting"
    assert [s for s in states if s != "ready"] == ["starting", "busy", "stopped"]
    assert all(event.kind == "state" for event in events)


def test_who_has_unsubscribed_hears_nothing(client: WorkerClient) -> None:
    events = Events()
    unsubscribe = client.subscribe(events)
    unsubscribe()
    unsubscribe()
    client.submit("echo").wait(20)
    assert events == []


@posix
def test_close_ends_the_process_and_removes_every_file(client: WorkerClient) -> None:
    events = Events()
    client.submit("hoard", {"shape": (500, 500), "count": 2}, on_event=events)
    events.wait_for("plane")
    pid, session = client.pid, client._session
    assert pid is not None
    assert session is not None
    began = time.monotonic()
    client.close()
    client.close()
    assert time.monotonic() - began < 2
    wait_until(lambda: dead(pid))
    assert not any(folder.exists() for folder in (session.work, *session.blocks))
    assert events.last_ones == ["cancelled"]
    with pytest.raises(WorkerError, match="closed"):
        client.submit("echo")


@posix
def test_close_while_it_starts_leaves_no_process(
    make_client: Callable[..., WorkerClient],
) -> None:
    for delay_s in (0, 0.02, 0.1):
        client = make_client()
        job = client.submit("echo")
        time.sleep(delay_s)
        process = client._process
        client.close()
        assert job.wait(5).kind in ("cancelled", "done")
        popen = process._popen if process is not None else None
        wait_until(lambda popen=popen: popen is None or popen.poll() is not None)


@pytest.mark.parametrize("busy_with", ["sleep", "stubborn"])
@posix
def test_the_worker_dies_with_a_killed_parent(busy_with: str, tmp_path: Path) -> None:
    if busy_with == "stubborn" and sys.platform != "linux":
        pytest.skip("needs prctl")
    program = (
        "import sys, time; from dinoscope.worker.client import WorkerClient\n"
        f"c = WorkerClient(warm_up=False, job_modules=[{str(JOBS)!r}])\n"
        f"c.submit({busy_with!r}, {{'seconds': 60}})\n"
        "while c.state != 'busy': time.sleep(0.01)\n"
        "print(c.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not dead(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: dead(pid), timeout_s=5)


def test_an_interpreter_that_ends_without_close_ends_the_worker_and_removes_the_folders(
    tmp_path: Path,
) -> None:
    program = (
        "from dinoscope.worker.client import WorkerClient\n"
        f"c = WorkerClient(warm_up=False, job_modules=[{str(JOBS)!r}])\n"
        "c.submit('echo').wait(20); print(c.pid, *c._session.blocks)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert ended.returncode == 0
    assert ended.stderr == ""
    pid, *folders = ended.stdout.split()
    assert not any(Path(folder).exists() for folder in folders)
    if os.name != "nt":
        wait_until(lambda: dead(int(pid)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"job_modules": ["no_such_module_anywhere"]}, "No module named 'no_such_module_anywhere'"),
        ({"python": "/nonexistent/python"}, "could not be started.*nonexistent"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    options: dict[str, Any], text: str, make_client: Callable[..., WorkerClient]
) -> None:
    client = make_client(**options)
    states = Events()
    client.subscribe(states)
    event = client.submit("echo").wait(20)
    assert event.kind == "error"
    assert re.search(text, str(event.data["error"]))
    assert "\n" not in str(event.data["error"])
    assert client.state == "stopped"
    wait_until(lambda: any("error" in state.data for state in states))


@posix
def test_an_interpreter_that_dies_before_it_listens_says_its_last_line(
    make_client: Callable[..., WorkerClient], tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'cannot open libpython' >&2\nexit 4\n")
    broken.chmod(0o755)
    error = make_client(python=str(broken)).submit("echo").wait(20).data["error"]
    assert re.search(r"could not be started \(exit status 4: cannot open libpython\)", str(error))


# Jobs and their arrays


def test_jobs_run_one_after_the_other_and_each_ends_once(client: WorkerClient) -> None:
    every = [Events() for _ in range(5)]
    jobs = [
        client.submit("steps", {"count": 3, "step_s": 0.001}, on_event=events) for events in every
    ]
    assert [job.wait(20).kind for job in jobs] == ["done"] * 5
    assert all(events.kinds == ["progress"] * 3 + ["done"] for events in every)
    assert every[0][0].data == {
        "step": "steps",
        "done": 1,
        "total": 3,
        "seconds_left": None,
        "message": "",
        "values": {"loss": 1.0},
    }


def test_planes_arrive_whole_and_belong_to_the_receiver(client: WorkerClient) -> None:
    events = Events()
    client.submit("arrays", {"shape": (300, 400), "count": 12}, on_event=events).wait(30)
    planes = [event.data for event in events if event.kind == "plane"]
    assert [plane["index"] for plane in planes] == [(i,) for i in range(12)]
    for i, plane in enumerate(planes):
        array = plane["arrays"]["semantic"]
        assert array.shape == (300, 200)
        assert (array == i).all()
        array[0, 0] = 9
        assert plane["objects"]["name"][1] == "µ"
    assert blocks_of(client) == []


def test_an_image_is_read_plane_by_plane(client: WorkerClient) -> None:
    class Lazy:
        shape = (4, 2, 300, 300)
        dtype = np.dtype(">i2")
        keys: list[Any] = []  # noqa: RUF012 - what was asked for

        def __getitem__(self, key: Any) -> np.ndarray:
            self.keys.append(key)
            return np.full(self.shape, 1, self.dtype)[key] * key[0]

    image = ImageInput(Lazy(), "TCYX", {"Y": 0.5})
    done = client.submit("totals", images={"image": image}).wait(20)
    assert done.data == {"sums": [0.0, 90e3, 180e3, 270e3], "dtype": ">i2", "axes": "TCYX"}
    assert [key[0] for key in Lazy.keys] == [0, 1, 2, 3]
    assert blocks_of(client) == []


def test_an_image_that_cannot_be_read_any_more_is_a_clear_error(client: WorkerClient) -> None:
    class Gone:
        shape, dtype = (3, 8, 8), np.dtype(np.uint8)

        def __getitem__(self, key: Any) -> np.ndarray:
            raise RuntimeError("the layer was removed")

    image = ImageInput(Gone(), "ZYX", name="cells")
    error = client.submit("totals", images={"image": image}).wait(20).data["error"]
    assert isinstance(error, InputError)
    assert re.search("'cells' could not be read .*the layer was removed", str(error))
    assert client.submit("echo", {"n": 2}).wait(20).data == {"n": 2}


def test_an_answer_that_went_astray_is_asked_for_again(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = Job.answer, []

    def lose_the_first(job: Job, process: Any, request: Any) -> None:
        asked.append(request["request"])
        if len(asked) > 1:
            answer(job, process, request)

    monkeypatch.setattr(Job, "answer", lose_the_first)
    image = ImageInput(np.ones((1, 2, 300, 300), np.uint8), "TCYX")
    done = client.submit("totals", images={"image": image}).wait(40)
    assert done.data["sums"] == [90e3]
    assert asked == [asked[0], asked[0]]


def test_a_failure_to_send_pixels_ends_the_job_instead_of_leaving_it_to_wait(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = WorkerProcess.send

    def fail(process: WorkerProcess, verb: str, job: int, body: Any = None) -> None:
        if verb == "pixels" and "pixels" in body:
            raise ValueError("no such array")
        send(process, verb, job, body)

    monkeypatch.setattr(WorkerProcess, "send", fail)
    image = ImageInput(np.ones((1, 2, 300, 300), np.uint8), "TCYX")
    error = client.submit("totals", images={"image": image}).wait(9).data["error"]
    assert "no such array" in str(error)


def test_an_image_that_changes_its_shape_meanwhile_is_a_clear_error(client: WorkerClient) -> None:
    class Shrinking:
        shape, dtype = (5, 8, 8), np.dtype(np.uint8)

        def __getitem__(self, key: Any) -> np.ndarray:
            data = np.zeros(self.shape, self.dtype)[key]
            self.shape = (2, 8, 8)
            return data

    image = ImageInput(Shrinking(), "ZYX", name="cells")
    error = client.submit("totals", images={"image": image}).wait(20).data["error"]
    assert re.search(r"'cells' now has shape \(2, 8, 8\)", str(error))


def test_the_window_owns_the_errors_of_its_images(client: WorkerClient) -> None:
    class Refusing:
        shape, dtype = (5, 8, 8), np.dtype(np.uint8)

        def __getitem__(self, key: Any) -> np.ndarray:
            raise InputError("the layer 'cells' was edited while it was read")

    image = ImageInput(Refusing(), "ZYX")
    error = client.submit("totals", images={"image": image}).wait(20).data["error"]
    assert error.what == "the layer 'cells' was edited while it was read"


@pytest.mark.parametrize(
    ("kind", "family", "text"),
    [
        ("input", InputError, "the image is empty, got shape"),
        ("disk", OutputError, "'/data/out.tif' No space left on device.*disk has room"),
        ("memory", WorkerError, "not enough memory.*smaller region"),
        ("exit", WorkerError, "SystemExit: 3"),
        ("odd", WorkerError, "RuntimeError: something odd"),
        ("foreign", WorkerError, r"contains re\._compile"),
    ],
)
def test_every_failure_is_one_readable_error_and_the_worker_goes_on(
    kind: str, family: type[DinoscopeError], text: str, client: WorkerClient
) -> None:
    events = Events()
    event = client.submit("fail", {"with": kind}, on_event=events).wait(20)
    assert isinstance(event.data["error"], family)
    assert re.search(text, str(event.data["error"]))
    assert "\n" not in str(event.data["error"])
    pid = client.pid
    assert client.submit("facts").wait(20).data["pid"] == pid
    assert events.kinds == ["error"]


def test_a_failure_carries_its_traceback_and_the_log_has_it_too(client: WorkerClient) -> None:
    event = client.submit("fail", {"with": "odd"}).wait(20)
    assert "in fail" in event.data["traceback"]
    assert client.log_path is not None
    assert "RuntimeError: something odd" in client.log_path.read_text()


def test_an_unknown_kind_names_the_known_ones(client: WorkerClient) -> None:
    error = client.submit("fly").wait(20).data["error"]
    assert re.search("asked for 'fly'; expected one of .*predict.*train", str(error))


def test_a_payload_that_cannot_travel_is_an_error_event(client: WorkerClient) -> None:
    for value in (lambda: None, re.compile("a")):
        event = client.submit("echo", {"value": value}).wait(20)
        assert event.kind == "error"
    assert client.submit("echo", {"n": 3}).wait(20).data == {"n": 3}


def test_a_callback_that_fails_does_not_stop_the_others(
    client: WorkerClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise ValueError("a bug in a panel")

    client.submit("echo", on_event=fail).wait(20)
    assert client.submit("echo", {"n": 4}).wait(20).data == {"n": 4}
    assert "a bug in a panel" in caplog.text


def test_quick_jobs_run_between_the_steps_of_a_long_one(client: WorkerClient) -> None:
    long = begun(client, "steps")
    assert client.submit("quick_echo", {"n": 5}).wait(5).data == {"n": 5}
    assert not long.finished
    slow = client.submit("echo", {"n": 6})
    time.sleep(0.1)
    assert not slow.finished
    long.cancel()
    assert slow.wait(5).data == {"n": 6}


# Cancel and kill


def test_a_job_that_obeys_is_cancelled_within_a_step_and_the_worker_stays(
    client: WorkerClient,
) -> None:
    events = Events()
    job = client.submit("steps", on_event=events)
    events.wait_for("progress")
    pid = client.pid
    job.cancel()
    assert job.wait(20).kind == "cancelled"
    assert client.submit("facts").wait(20).data["pid"] == pid
    assert events.last_ones == ["cancelled"]


@pytest.mark.parametrize("kind", ["sleep", "stubborn"])
def test_a_job_that_does_not_obey_is_killed_within_a_second_and_the_next_one_works(
    kind: str, client: WorkerClient
) -> None:
    events = Events()
    job = client.submit(kind, {"seconds": 60}, on_event=events)
    wait_until(lambda: client.state == "busy")
    pid, began = client.pid, time.monotonic()
    job.cancel()
    job.cancel()
    assert job.wait(20).kind == "cancelled"
    # It is given its time to obey; how long the kill itself takes depends on the machine's load,
    # and is measured by benchmarks/cancel_latency.py.
    assert time.monotonic() - began >= CANCEL_GRACE_S
    facts = client.submit("facts").wait(20).data
    assert facts["pid"] != pid
    assert events.kinds == ["cancelled"]
    job.cancel()
    assert events.kinds == ["cancelled"]


def test_a_withdrawn_job_ends_at_its_next_step_and_the_worker_stays(client: WorkerClient) -> None:
    job = begun(client, "steps", {"count": 3, "step_s": 1.5 * CANCEL_GRACE_S})
    pid = client.pid
    job.withdraw()
    assert job.wait(20).kind == "cancelled"
    assert client.submit("facts").wait(20).data["pid"] == pid


def test_a_withdrawn_job_can_still_be_cancelled(client: WorkerClient) -> None:
    job = begun(client, "stubborn")
    pid = client.pid
    job.withdraw()
    job.cancel()
    assert job.wait(20).kind == "cancelled"
    assert client.submit("facts").wait(20).data["pid"] != pid


def test_a_job_that_waits_is_cancelled_at_once_without_harm_to_the_one_that_runs(
    client: WorkerClient,
) -> None:
    running = begun(client, "sleep", {"seconds": 0.5})
    waiting = client.submit("echo")
    waiting.cancel()
    assert waiting.wait(5).kind == "cancelled"
    assert not running.finished
    assert running.wait(20).kind == "done"


def test_a_job_cancelled_before_the_worker_is_up_never_runs(client: WorkerClient) -> None:
    job = client.submit("stubborn")
    job.cancel()
    assert job.wait(1).kind == "cancelled"
    assert client.submit("echo", {"n": 7}).wait(20).data == {"n": 7}


def test_jobs_that_wait_behind_a_killed_one_run_in_the_next_worker(client: WorkerClient) -> None:
    stuck = begun(client, "stubborn")
    waiting = [client.submit("echo", {"n": n}) for n in range(3)]
    stuck.cancel()
    assert [job.wait(20).data for job in waiting] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_cancelled_quick_job_does_not_cost_the_training_that_runs(client: WorkerClient) -> None:
    long = begun(client, "steps", {"count": 400, "step_s": 0.01})
    quick = client.submit("quick_sleep", {"seconds": 1.5})
    wait_until(lambda: client._process is not None and len(client._process.running) == 2)
    pid = client.pid
    quick.cancel()
    assert quick.wait(3).kind == "cancelled"
    assert long.wait(20).kind == "done"
    assert client.pid == pid


def test_cancelling_after_the_end_changes_nothing(client: WorkerClient) -> None:
    events = Events()
    job = client.submit("echo", on_event=events)
    assert job.wait(20).kind == "done"
    job.cancel()
    time.sleep(0.05)
    assert events.kinds == ["done"]


def test_a_job_that_waits_for_pixels_obeys(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the worker may take longer than it would be given.
    monkeypatch.setattr("dinoscope.worker.client.CANCEL_GRACE_S", 10.0)

    class Slow:
        shape, dtype = (3, 8, 8), np.dtype(np.uint8)
        asked = threading.Event()

        def __getitem__(self, key: Any) -> np.ndarray:
            self.asked.set()
            time.sleep(4)
            return np.zeros((8, 8), np.uint8)

    job = client.submit("read_forever", images={"image": ImageInput(Slow(), "ZYX")})
    assert Slow.asked.wait(20)
    pid, began = client.pid, time.monotonic()
    job.cancel()
    assert job.wait(5).kind == "cancelled"
    assert time.monotonic() - began < 3  # asked, not killed: the worker is the same one
    assert client.submit("facts").wait(20).data["pid"] == pid


@posix
@pytest.mark.parametrize("how", ["killed from outside", "exit"])
def test_a_worker_that_dies_gives_an_error_and_the_next_job_a_fresh_one(
    how: str, client: WorkerClient
) -> None:
    events = Events()
    if how == "exit":
        job = client.submit("fail", {"with": "die"}, on_event=events)
    else:
        job = client.submit("sleep", {"seconds": 60}, on_event=events)
        wait_until(lambda: client.state == "busy")
    waiting = client.submit("echo", {"n": 8})
    if how != "exit":
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
    error = job.wait(20).data["error"]
    assert isinstance(error, WorkerError)
    expected = "exit status 7" if how == "exit" else "it was killed; often because the memory"
    assert re.search(rf"the worker process stopped \({expected}", str(error))
    assert waiting.wait(20).data == {"n": 8}
    assert client.submit("echo", {"n": 9}).wait(20).data == {"n": 9}
    assert events.last_ones == ["error"]


@posix
def test_an_idle_worker_that_is_killed_is_noticed_and_replaced(client: WorkerClient) -> None:
    client.submit("echo").wait(20)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until(lambda: client.state == "stopped")
    assert client.submit("echo", {"n": 1}).wait(20).data == {"n": 1}


@posix
def test_a_job_submitted_before_the_death_was_noticed_runs_in_the_next_worker(
    client: WorkerClient,
) -> None:
    client.submit("echo").wait(20)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)  # it takes the job but never begins it
    job = client.submit("echo", {"n": 2})
    os.kill(client.pid, signal.SIGKILL)
    assert job.wait(20).data == {"n": 2}


@posix
def test_a_worker_that_always_dies_by_itself_is_not_started_for_ever(
    make_client: Callable[..., WorkerClient], tmp_path: Path
) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text(
        "import os, threading\n"
        "threading.Timer(0.3, os._exit, [5]).start()\n"
        "from dinoscope.worker.jobs import JobKind\n"
        "import time; JOBS = {}\n"
        "from dinoscope.worker import service\n"
        "service.Service._take = lambda *a: None\n"
    )
    client = make_client(job_modules=[dying])
    error = client.submit("echo").wait(20).data["error"]
    assert re.search(r"stopped \(exit status 5\)", str(error))
    assert client.state == "stopped"


def test_no_block_stays_after_kills_in_the_middle_of_transfers(client: WorkerClient) -> None:
    image = ImageInput(np.ones((3, 900, 900), np.float32), "ZYX")
    for delay_s in (0.0, 0.01, 0.03):
        events = Events()
        job = client.submit("hoard", {"shape": (900, 900), "count": 200}, on_event=events)
        events.wait_for("plane")
        time.sleep(delay_s)
        process = client._process
        assert process is not None
        process.kill()
        assert job.wait(10).kind == "error"
        reading = client.submit("read_forever", images={"image": image})
        wait_until(lambda: client.state == "busy")
        time.sleep(delay_s)
        process = client._process
        assert process is not None
        process.kill()
        assert reading.wait(10).kind == "error"
    client.submit("echo").wait(20)
    wait_until(lambda: blocks_of(client) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
@pytest.mark.parametrize("how", ["cancelled", "killed from outside"])
def test_processes_of_a_job_end_with_it(how: str, client: WorkerClient) -> None:
    events = Events()
    job = client.submit("with_child", on_event=events)
    child = int(events.wait_for("progress", timeout_s=30).data["child"])
    assert client.pid is not None
    began = time.monotonic()
    if how == "cancelled":
        job.cancel()
    else:
        os.kill(client.pid, signal.SIGKILL)
    job.wait(10)
    wait_until(lambda: dead(child), timeout_s=3)
    assert time.monotonic() - began < 3


# What it stands on


def test_the_client_imports_nothing_heavy() -> None:
    program = (
        "import sys, json; import dinoscope.worker.client\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(json.loads(run.stdout))


@pytest.mark.parametrize("module", ["client", "job", "mailbox", "process", "protocol", "session"])
def test_the_clients_modules_stand_on_types_config_and_errors_alone(module: str) -> None:
    import dinoscope.worker

    source = (Path(dinoscope.worker.__file__).parent / f"{module}.py").read_text()
    own = {
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dinoscope.")
    }
    allowed = {"dinoscope.types", "dinoscope.config", "dinoscope.errors"} | {
        f"dinoscope.worker.{name}" for name in ("job", "mailbox", "process", "protocol", "session")
    }
    assert own <= allowed
