"""How many processor cores there are for this process, without any library's help."""

from __future__ import annotations

import os
from pathlib import Path

#: Microseconds of processor time, or ``max``, and the microseconds in which they may be used.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Cores that this process may use: those it may run on, and no more than its container's
    share of time makes up (more threads than that would wait for each other)."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cores_of_container(cores)))


def _cores_of_container(otherwise: int) -> int:
    """The share of time of Linux's control groups (version 2), in whole cores."""
    try:
        time_us, period_us = _QUOTA.read_text(encoding="ascii").split()
        return round(int(time_us) / int(period_us))
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return otherwise


def default_threads() -> int:
    """What the variable ``OMP_NUM_THREADS`` says, as clusters set it for a job (of nested levels
    the first), else one for each core; never more than there are cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cores = available_cores()
    return min(int(first) or cores, cores) if first.isdigit() else cores
