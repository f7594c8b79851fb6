"""What was measured on this machine: which runtime is fastest for which backbone. A small file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dinoscope import __version__
from dinoscope.config import available_cores
from dinoscope.models.folders import cache_dir

_FILE = "runtimes.json"
_LIBRARIES = ("torch", "openvino", "onnxruntime")


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of this package and of the installed runtimes."""
    found = {"dinoscope": __version__}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def key(backbone: str, threads: int) -> str:
    """What a record holds for: machine, threads, backbone and versions."""
    facts = [processor(), available_cores(), threads, backbone, versions()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def read(name: str) -> dict[str, Any] | None:
    """The record of that key; ``None`` where there is none or the file cannot be read."""
    record = _all().get(name)
    return record if isinstance(record, dict) and "best" in record else None


def write(name: str, record: Mapping[str, Any]) -> None:
    """Keep a record; a folder that cannot be written costs only that it is measured again."""
    path = cache_dir() / _FILE
    text = json.dumps({**_all(), name: dict(record)}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        return


def _all() -> dict[str, Any]:
    try:
        found = json.loads((cache_dir() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
