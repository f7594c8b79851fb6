"""Jobs that the worker's tests ask for; loaded by the worker, not by pytest."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.types import Progress, Table
from dinoscope.worker.jobs import JobContext, JobKind
from dinoscope.worker.protocol import Event


def echo(context: JobContext) -> dict[str, Any]:
    return dict(context.payload)


def steps(context: JobContext) -> Iterator[Any]:
    """Obeys a cancel: yields every few milliseconds."""
    count = context.payload.get("count", 1000)
    for i in range(count):
        time.sleep(context.payload.get("step_s", 0.01))
        yield Progress("steps", i + 1, count, values={"loss": 1.0 / (i + 1)})
    return {"steps": count}


def sleep(context: JobContext) -> dict[str, Any]:
    """Does not obey a cancel, lets other threads run."""
    time.sleep(context.payload["seconds"])
    return {}


def stubborn(context: JobContext) -> dict[str, Any]:
    """Holds the interpreter's lock in C code for ever."""
    re.match(r"(a+)+$", "a" * 60 + "b")
    return {}


def arrays(context: JobContext) -> Iterator[Any]:
    """Sends planes of a given shape as fast as it can."""
    shape = context.payload["shape"]
    for i in range(context.payload["count"]):
        pixels = np.full(shape, i, np.uint16)
        table: Table = {"label": np.arange(i), "name": np.array(["a", "µ"] * 9000)}
        data = {"index": (i,), "arrays": {"semantic": pixels[:, ::2]}, "objects": table}
        yield Event("plane", data)
    return {}


def hoard(context: JobContext) -> Iterator[Any]:
    """Sends planes and then hangs, so that a kill finds blocks on their way."""
    yield from arrays(context)
    while True:
        time.sleep(60)


def totals(context: JobContext) -> Iterator[Any]:
    """Reads an image plane by plane."""
    image = context.images["image"]
    sums = []
    for index in range(image.shape[0]):
        sums.append(float(np.asarray(image.data[index, 1:, ...]).sum()))
        yield Progress("read", index + 1, image.shape[0])
    return {"sums": sums, "dtype": str(image.data.dtype), "axes": image.axes}


def read_forever(context: JobContext) -> dict[str, Any]:
    while True:
        np.asarray(context.images["image"].data[0])


def fail(context: JobContext) -> dict[str, Any]:
    kind = context.payload["with"]
    if kind == "input":
        raise InputError("the image is empty, got shape (0, 0)", expected="some pixels")
    if kind == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out.tif")
    if kind == "memory":
        raise MemoryError("Unable to allocate 9 TiB")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "die":
        os._exit(7)
    if kind == "foreign":
        return {"value": re.compile("a")}
    raise RuntimeError("something odd")


def _report_and_sleep(pipe: Any) -> None:
    pipe.send(os.getpid())
    time.sleep(60)


def with_child(context: JobContext) -> Iterator[Any]:
    """Has a process of its own, as a data loader does, and does not obey."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    fork.Process(target=_report_and_sleep, args=(there,), daemon=True).start()
    if not here.poll(20):
        raise TimeoutError("the forked process hangs")
    yield Event("progress", {"child": here.recv()})
    time.sleep(60)


def facts(context: JobContext) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "cpu_s": time.process_time(),
        "nice": os.nice(0) if hasattr(os, "nice") else None,
        "threads": os.environ["OMP_NUM_THREADS"],
    }


JOBS = {
    "echo": JobKind(echo, heavy=False),
    "quick_echo": JobKind(echo, quick=True, heavy=False),
    "quick_sleep": JobKind(sleep, quick=True, heavy=False),
    "steps": JobKind(steps, heavy=False),
    "sleep": JobKind(sleep, heavy=False),
    "stubborn": JobKind(stubborn, heavy=False),
    "arrays": JobKind(arrays, heavy=False),
    "hoard": JobKind(hoard, heavy=False),
    "totals": JobKind(totals, heavy=False),
    "read_forever": JobKind(read_forever, heavy=False),
    "fail": JobKind(fail, heavy=False),
    "with_child": JobKind(with_child, heavy=False),
    "facts": JobKind(facts, heavy=False),
}
