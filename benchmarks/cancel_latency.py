"""How long a cancel takes, over jobs that obey and jobs that do not.

``python -m benchmarks.cancel_latency [--model NAME]`` prints JSON. Without ``--model`` the worker
needs no torch: the jobs step, sleep or hold the interpreter's lock in C code. With it, predictions
of that model are cancelled too. The time is from the call of ``cancel()`` to the last event in the
window's process.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.config import PredictOptions
from dinoscope.types import ImageInput, Progress
from dinoscope.worker.client import Job, WorkerClient
from dinoscope.worker.jobs import JobContext, JobKind, Steps

TRIES = 50


def obedient(context: JobContext) -> Steps:
    """Steps of 50 ms."""
    for step in range(10_000):
        time.sleep(0.05)
        yield Progress("steps", step, 10_000)
    return {}


def asleep(context: JobContext) -> dict[str, Any]:
    """One step that lasts for ever but lets other threads run."""
    time.sleep(3600)
    return {}


def stubborn(context: JobContext) -> dict[str, Any]:
    """One step in C code that never gives the interpreter's lock back."""
    re.match(r"(a+)+$", "a" * 60 + "b")
    return {}


#: What the worker adds to its own kinds.
JOBS = {
    "obedient": JobKind(obedient, heavy=False),
    "asleep": JobKind(asleep, heavy=False),
    "stubborn": JobKind(stubborn, heavy=False),
}


def measure(tries: int = TRIES, model: str | None = None) -> dict[str, Any]:
    """Cancel `tries` jobs of all kinds in turn, each at a random moment.

    Returns
    -------
    dict
        ``p50_s p95_s max_s tries``, the same by kind, and ``killed``: how often the process had
        to go.

    Raises
    ------
    RuntimeError
        A job did not end as cancelled, or the worker could not be used afterwards.
    """
    moments = random.Random(0)
    kinds = [*JOBS, *(["predict"] if model else [])]
    waited: dict[str, list[float]] = {kind: [] for kind in kinds}
    killed = 0
    client = WorkerClient(warm_up=model is not None, job_modules=[Path(__file__)])
    try:
        _usable(client)
        for number in range(tries):
            kind = kinds[number % len(kinds)]
            job = _begin(client, kind, model)
            time.sleep(moments.uniform(0.0, 0.3))
            process, asked = client.pid, time.perf_counter()
            job.cancel()
            outcome = job.wait(30)
            waited[kind].append(time.perf_counter() - asked)
            if outcome.kind != "cancelled":
                raise RuntimeError(f"a cancelled {kind} job ended with {outcome}")
            killed += client.pid != process
            _usable(client)
    finally:
        client.close()
    every = [seconds for values in waited.values() for seconds in values]
    by_kind = {kind: summary(values) for kind, values in waited.items() if values}
    return {**summary(every), "killed": killed, "by_kind": by_kind}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, maximum and number."""
    return {
        "p50_s": round(statistics.median(values), 4),
        "p95_s": round(float(np.percentile(values, 95)), 4),
        "max_s": round(max(values), 4),
        "tries": len(values),
    }


def _begin(client: WorkerClient, kind: str, model: str | None) -> Job:
    """A job that the worker has begun."""
    if kind == "predict":
        image = ImageInput(np.zeros((50, 1024, 1024), np.uint8), "TYX", name="blank")
        options = PredictOptions(tasks=("instance",))
        job = client.submit("predict", {"model": model, "options": options}, {"image": image})
    else:
        job = client.submit(kind)
    end = time.monotonic() + 60
    while client.state != "busy" and time.monotonic() < end:
        time.sleep(0.002)
    return job


def _usable(client: WorkerClient) -> None:
    if client.submit("forget", {"run": "none"}).wait(120).kind != "done":
        raise RuntimeError("the worker does not work after a cancel")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cancel_latency")
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--model", help="also cancel predictions of this model")
    args = parser.parse_args(argv)
    print(json.dumps(measure(args.tries, args.model), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
