"""Where to compute, with how many threads and in which precision; the one place that imports torch.

Modules that need torch write ``from dinoscope.models.device import torch``: that import is guarded
(see :func:`bind_triton`) and happens only when it is reached.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dinoscope.config import DEVICES, available_cores, default_threads
from dinoscope.errors import InputError

if TYPE_CHECKING:
    import torch as torch


#: Numbers of glibc's options (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Arrays of so many bytes get memory of their own; so many free bytes are kept beside them.
_MAPPED_BYTES, _KEPT_BYTES = 64 << 20, 256 << 20


def bind_triton() -> None:
    """Let torch and an OpenGL context live in one process; does not import torch.

    Triton and Mesa's software renderer each bring an LLVM; whichever is loaded second crashes
    unless triton binds its own symbols first (a quarter of a second). CPU-only torch brings no
    triton, and nothing is done.
    """
    if (
        sys.platform != "linux"
        or not {"torch", "triton"}.isdisjoint(sys.modules)
        or importlib.util.find_spec("triton") is None
    ):
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
    try:
        importlib.import_module("triton")
    except ImportError:
        pass  # torch does without it
    finally:
        sys.setdlopenflags(flags)


def keep_freed_memory() -> bool:
    """Let the C library keep what arrays free for the next ones; whether it does.

    Tiles need the same few megabytes again and again. glibc hands most of them back to the system,
    and a page that comes anew has to be cleared first: up to a fifth of the time of a tile. Arrays
    of 64 MB and more go back at once, as whole planes do. Other C libraries keep memory anyway.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    mapped = mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    return bool(mapped and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def give_back_memory() -> bool:
    """Hand what :func:`keep_freed_memory` kept back to the system, as when nothing is to be done
    soon; whether there was any."""
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; ``None`` where the C library is another one."""
    if sys.platform != "linux":
        return None
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None  # musl
    return found


def import_torch() -> Any:
    """Import torch so that it also lives beside an OpenGL context; return the module."""
    bind_triton()
    if "torch" not in sys.modules:
        keep_freed_memory()
    return importlib.import_module("torch")


def __getattr__(name: str) -> Any:
    if name == "torch":
        return import_torch()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pick_device(name: str = "auto") -> str:
    """Turn a device option into a device that exists here.

    Parameters
    ----------
    name : str
        ``auto`` (CUDA, else Apple's MPS, else CPU), ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    str
        ``cuda``, ``mps`` or ``cpu``.

    Raises
    ------
    InputError
        An unknown name, or a device that this machine (or this build of torch) does not have.

    Examples
    --------
    >>> pick_device("cpu")
    'cpu'
    """
    if name not in DEVICES:
        raise InputError(f"device is {name!r}", expected="one of " + ", ".join(DEVICES))
    if name == "cpu":
        return name
    torch = import_torch()
    available = {
        "cuda": bool(torch.cuda.is_available()),
        "mps": bool(torch.backends.mps.is_available()),
    }
    if name == "auto":
        return next((kind for kind, there in available.items() if there), "cpu")
    if not available[name]:
        raise InputError(
            f"device is {name!r}, which torch cannot use here",
            expected="auto, cpu" + "".join(f", {k}" for k, there in available.items() if there),
            hint=cuda_note() if name == "cuda" else "",
        )
    return name


def set_threads(threads: int = 0) -> int:
    """Let torch use this many CPU threads; return the number.

    0 means what the variable ``OMP_NUM_THREADS`` says, as clusters set it for a job, else every
    core.
    """
    number = threads if threads > 0 else default_threads()
    import_torch().set_num_threads(number)
    return number


def precision_for(device: str, *, training: bool = False) -> torch.dtype:
    """The fastest of bfloat16, float16 and float32 that `device` computes natively.

    float16 is for NVIDIA cards that have it without bfloat16 (Volta, Turing), and not for
    training, where small gradients would vanish. Whether a backbone keeps its accuracy is a
    second question: see :func:`dinoscope.models.precision.check_bf16`.
    """
    torch_ = import_torch()
    if device == "cuda":
        fast = bool(torch_.cuda.is_bf16_supported(including_emulation=False))
        if not fast and not training and torch_.cuda.get_device_capability() >= (7, 0):
            return cast("torch.dtype", torch_.float16)
    elif device == "cpu":
        # Private but stable since torch 2.3; an absent probe means float32, which is always right.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = any(bool(getattr(torch_.cpu, probe, bool)()) for probe in probes)
    else:
        fast = False
    return cast("torch.dtype", torch_.bfloat16 if fast else torch_.float32)


def nvidia_card_present() -> bool:
    """Whether the system (not torch) shows an NVIDIA card with a driver."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return True
    root = os.environ.get("SYSTEMROOT")
    return bool(root) and (Path(str(root)) / "System32" / "nvcuda.dll").exists()


def cuda_note() -> str:
    """What to do when an NVIDIA card is there but torch cannot use it; empty when all is well."""
    if not nvidia_card_present():
        return ""
    torch = import_torch()
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return (
            "This machine has an NVIDIA card, but the installed torch computes on the CPU only. "
            "For the card: install the CUDA build of torch, with the command that "
            "PyTorch's own installation page gives for this system"
        )
    return (
        "This machine has an NVIDIA card, but torch cannot use it: its driver is probably older "
        f"than CUDA {torch.version.cuda}. Update the driver, or install a torch for an older CUDA."
    )


def describe(device: str = "auto") -> dict[str, Any]:
    """What a run on `device` would compute on; plain values, ready for JSON.

    Returns
    -------
    dict
        ``device``, ``name``, ``threads``, ``cores``, ``precision`` (``bfloat16``, ``float16`` or
        ``float32``),
        ``memory_mb`` (of the card, else ``None``), ``torch`` and ``note`` (see :func:`cuda_note`).
    """
    kind = pick_device(device)
    torch = import_torch()
    memory_mb = None
    name = {"mps": "Apple GPU", "cpu": "CPU"}.get(kind, kind)
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory_mb = str(properties.name), int(properties.total_memory // 2**20)
    return {
        "device": kind,
        "name": name,
        "threads": int(torch.get_num_threads()),
        "cores": available_cores(),
        "precision": str(precision_for(kind)).removeprefix("torch."),
        "memory_mb": memory_mb,
        "torch": str(torch.__version__),
        "note": cuda_note(),
    }
