"""One measured figure a row, with what it must reach, what it should, and what a rival reaches."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Flags of Linux for what decides how fast a processor multiplies, and their usual names.
_VECTORS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}


@lru_cache
def machine() -> str:
    """Processor, what its vector units know, cores, memory, system and torch, in one line."""
    from importlib.metadata import version

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
            if line.startswith("flags"):
                flags = set(line.split())
                known = [name for flag, name in _VECTORS.items() if flag in flags]
                processor += f" ({', '.join(known[-2:])})" if known else ""
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        memory = f", {gib:.0f} GiB"
    system = f"{platform.system()}, Python {platform.python_version()}, torch {version('torch')}"
    return f"{processor}, {cores} cores{memory}, {system}"


@lru_cache
def commit() -> str:
    """Hash of the commit that is measured; ``+changes`` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        done = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        state = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip() + ("+changes" if state.stdout.strip() else "")


@dataclass(frozen=True)
class Row:
    """A figure. `bar` says what it is, its unit, and whether more or less is better.

    `low` and `high` bound its 95 % interval, where there is one.
    """

    bar: str
    value: float | None
    must: float | None = None
    aim: float | None = None
    rival_value: float | None = None
    machine: str = field(default_factory=machine)
    commit: str = field(default_factory=commit)
    low: float | None = None
    high: float | None = None


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write rows as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def show(rows: Iterable[Row]) -> str:
    """The rows as a table for reading."""
    lines = [f"{'value':>10}  {'must':>8}  {'aim':>8}  {'rival':>8}  bar"]
    for row in rows:
        numbers = (row.value, row.must, row.aim, row.rival_value)
        shown = ["-" if n is None else f"{n:.4g}" for n in numbers]
        lines.append(f"{shown[0]:>10}  {shown[1]:>8}  {shown[2]:>8}  {shown[3]:>8}  {row.bar}")
    return "\n".join(lines)
