"""Memory of the window's process and the worker together, as planes become many.

PSS (proportional set size) counts shared pages once, so that two processes add up rightly.
Linux only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row

PLANES = (1, 10, 50)
#: What a plane of 1024² instance ids weighs, uint32.
RESULT_MB = 1024 * 1024 * 4 / 1e6


def pss_mb(pid: int) -> float:
    """PSS of a process in MB; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024 / 1e6


class PeakMemory:
    """Highest PSS of several processes together while the block runs, 10 looks a second."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak_mb = max(self.peak_mb, sum(pss_mb(pid) for pid in self.pids))
            time.sleep(0.1)


def memory_rows(data: Path | None) -> Iterator[Row]:
    """Peak PSS of both processes for 1, 10 and 50 planes, the results included."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise OSError("memory is measured on Linux only")
    from benchmarks import window

    peaks = {}
    for planes in PLANES:
        # A window of its own each time: memory that an earlier run freed may not go back.
        found = window.result_of("-m", "benchmarks.window", "embedded", str(planes), "1")
        peaks[planes] = found["peak_mb"]
        yield Row(f"peak PSS of both processes, {planes} planes of 1024², MB (less)", peaks[planes])
    results = (PLANES[-1] - PLANES[1]) * RESULT_MB
    growth = (peaks[PLANES[-1]] - peaks[PLANES[1]] - results) / (PLANES[-1] - PLANES[1])
    yield Row("growth of that per plane beyond the results themselves, MB (less)", growth, must=1.0)
