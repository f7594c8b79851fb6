"""A program that is killed while it writes loses nothing, and a lock that it left is recovered."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.project.conftest import picture

from dinoscope.errors import OutputError
from dinoscope.project import Project
from dinoscope.project.lock import STALE_S, Lock

#: Paints stroke after stroke, says the number of each when it is written, and compacts at times.
PAINTER = """
import sys
import numpy as np
from dinoscope.project import Project

project = Project.open(sys.argv[1])
plane = next(iter(project.sources))
print("ready", flush=True)
for number in range(100_000):
    start = (number * 37) % 1900
    project.record(plane, (), "paint", np.arange(start, start + 20), 1 + number % 3)
    if number % 25 == 24:
        project.compact()
    print(number, flush=True)
"""


def painted(strokes: int) -> np.ndarray:
    """What the painter's plane looks like after so many strokes."""
    plane = np.zeros(2000, np.uint8)
    for number in range(strokes):
        start = (number * 37) % 1900
        plane[start : start + 20] = 1 + number % 3
    return plane


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals here")
@pytest.mark.parametrize("strokes", [3, 24, 60])
def test_killed_while_painting(project: Project, plane: str, strokes: int) -> None:
    folder = project.folder
    project.close()
    painter = subprocess.Popen(
        [sys.executable, "-c", PAINTER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert painter.stdout is not None
    written = -1
    for line in painter.stdout:
        if line.strip().isdigit():
            written = int(line)
            if written + 1 >= strokes:
                break
    second = Project.open(folder)
    assert second.read_only
    assert f"process {painter.pid}" in second.read_only_reason
    with pytest.raises(OutputError, match="another window"):
        second.set_settings(a=1)
    with pytest.raises(OutputError, match="cannot be changed"):
        Project.open(folder, read_only=False)
    painter.send_signal(signal.SIGKILL)
    rest = painter.stdout.read().split()
    painter.wait()
    painter.stdout.close()
    written = int(rest[-1]) if rest and rest[-1].isdigit() else written
    with Project.open(folder) as again:
        assert not again.read_only
        assert any(f"not closed by process {painter.pid}" in note for note in again.notes)
        found = again.dense(plane, ()).ravel()
        # What was said to be written is there; the stroke of the last moment may be, too.
        assert any(np.array_equal(found, painted(written + more)) for more in (1, 2))
        assert again.classes[1].name == "cell"


def test_a_second_window_may_look_and_sees_what_was_written(project: Project, plane: str) -> None:
    project.record(plane, (), "paint", np.array([1]), 2)
    with Project.open(project.folder) as second:
        assert second.read_only
        assert "it is open in another window (process" in second.read_only_reason
        assert second.strokes(plane, ())[0].tolist() == [1]
        with pytest.raises(OutputError, match="cannot be changed"):
            second.record(plane, (), "paint", np.array([2]), 2)
        with pytest.raises(OutputError, match="cannot be changed"):
            second.use_round(0)
    project.close()
    with Project.open(project.folder) as third:
        assert not third.read_only


def test_a_folder_that_must_not_be_written_is_opened_to_look_at(
    project: Project, plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.record(plane, (), "paint", np.array([1]), 2)
    project.close()

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("dinoscope.project.lock.Path.open", refuse)
        lock = Lock(project.folder / "lock")
        with pytest.raises(OutputError, match="Permission denied"):
            lock.take()
    monkeypatch.setattr(
        "dinoscope.project.project.Lock.take",
        lambda self: (_ for _ in ()).throw(OutputError("no permission")),
    )
    with Project.open(project.folder) as again:
        assert again.read_only
        assert "cannot be written to" in again.read_only_reason
        assert again.strokes(plane, ())[0].tolist() == [1]


@pytest.mark.parametrize(("age_s", "free"), [(5.0, False), (STALE_S + 5, True)])
def test_where_there_are_no_locks_a_silent_holder_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, free: bool
) -> None:
    import os

    path = tmp_path / "lock"
    holder = {"pid": 1, "host": "microscope-2", "user": "ada", "since": time.time() - 9000}
    path.write_text(json.dumps(holder))
    os.utime(path, (time.time() - age_s,) * 2)
    monkeypatch.setattr("dinoscope.project.lock._lock", lambda file: None)
    lock = Lock(path)
    assert lock.take() is free
    told = lock.recovered if free else lock.holder
    assert told is not None
    assert "of ada on microscope-2" in str(told)
    lock.give()


def test_a_project_made_anew_is_there_at_once(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "new.dinoproject", ["nothing", "mitochondrion"])
    source = project.add_source(picture(1))
    with Project.open(project.folder, read_only=True) as seen:
        assert list(seen.sources) == [source]
        assert seen.classes[1].name == "mitochondrion"
    project.close()
