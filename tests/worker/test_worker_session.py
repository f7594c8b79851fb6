"""The folders of a client and what remains of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dinoscope.worker.session import Session, remove_left_over


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_session_leaves_nothing_behind() -> None:
    session = Session()
    (session.work / "runs").mkdir()
    folders = {session.work, *session.blocks}
    assert all(folder.is_dir() for folder in folders)
    session.remove()
    session.remove()
    assert not any(folder.exists() for folder in folders)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no memory disk")
def test_blocks_lie_in_memory_with_the_disk_in_reserve() -> None:
    session = Session()
    assert session.blocks[0].parent == Path("/dev/shm")
    assert session.blocks[1] == session.work
    session.remove()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_the_next_session_removes_what_a_killed_napari_left(tmp_path: Path) -> None:
    program = (
        "import sys, time, tempfile; from dinoscope.worker.session import Session\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "s = Session(); print(s.work, flush=True); print(s.blocks[0], flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = [Path(process.stdout.readline().strip()) for _ in range(2)]
    alive = Session()
    assert all(folder.is_dir() for folder in left), "a living session's folders were removed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    own = Session()
    assert not any(folder.exists() for folder in left)
    assert alive.work.is_dir()
    assert own.work.is_dir()
    alive.remove()
    own.remove()


def test_folders_without_a_lock_are_not_ours_to_remove(tmp_path: Path) -> None:
    (tmp_path / "dinoscope-of-someone").mkdir()
    remove_left_over(tmp_path)
    assert (tmp_path / "dinoscope-of-someone").is_dir()


def test_the_tail_of_the_log_begins_where_this_worker_began() -> None:
    session = Session()
    session.log.write_text("old worker\n")
    start = session.log.stat().st_size
    with session.log.open("a") as log:
        log.writelines(f"line {i}\n" for i in range(30))
    assert session.log_tail(start, lines=2) == "line 28\nline 29"
    assert "old" not in session.log_tail(start, lines=100)
    session.remove()
    assert session.log_tail() == ""
