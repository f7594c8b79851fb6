from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dinoscope.config import machine
from dinoscope.errors import InputError
from dinoscope.models import device


def test_cpu_is_always_a_device() -> None:
    assert device.pick_device("cpu") == "cpu"


def test_auto_prefers_the_graphics_card_and_falls_back_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.pick_device("auto") == "cpu"


def test_unknown_device_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"device is 'tpu'; expected one of auto, cpu, cuda, mps"):
        device.pick_device("tpu")


def test_absent_device_is_refused_with_those_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"'cuda', which torch cannot use here; expected auto, cpu\."
    ):
        device.pick_device("cuda")


def test_zero_threads_means_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert device.set_threads(1) == torch.get_num_threads() == 1
    assert device.set_threads(0) == machine.available_cores() == torch.get_num_threads()


@pytest.mark.parametrize(("said", "threads"), [("1", 1), ("3,2", 3), ("64", 8), ("many", 8)])
def test_zero_threads_means_what_the_cluster_says(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int
) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert device.set_threads(0) == threads
    assert device.set_threads(2) == 2  # who asks for a number gets it


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 16), (None, 16)]
)
def test_a_container_s_share_of_time_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, cores: int
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    monkeypatch.setattr(machine, "_QUOTA", file)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert machine.available_cores() == cores


def test_bfloat16_is_used_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert device.precision_for("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert device.precision_for("cpu") == torch.bfloat16
    assert device.precision_for("mps") == torch.float32


@pytest.mark.parametrize(
    ("native", "capability", "training", "expected"),
    [
        (True, (9, 0), False, torch.bfloat16),
        (True, (8, 0), True, torch.bfloat16),
        (False, (7, 5), False, torch.float16),
        (False, (7, 5), True, torch.float32),
        (False, (6, 1), False, torch.float32),
    ],
)
def test_a_card_computes_in_what_its_generation_has(
    monkeypatch: pytest.MonkeyPatch,
    native: bool,
    capability: tuple[int, int],
    training: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device.precision_for("cuda", training=training) == expected


def test_probe_that_a_torch_version_lacks_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert device.precision_for("cpu") == torch.float32


@pytest.mark.parametrize(
    ("built_for", "expected"),
    [(None, "install the CUDA build of torch"), ("12.6", "older than CUDA 12.6")],
)
def test_unused_nvidia_card_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None, expected: str
) -> None:
    monkeypatch.setattr(device, "nvidia_card_present", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=built_for))
    assert expected in device.cuda_note()


def test_no_note_without_a_card_or_with_a_working_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nvidia_card_present", lambda: False)
    assert device.cuda_note() == ""
    monkeypatch.setattr(device, "nvidia_card_present", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.cuda_note() == ""


def test_description_is_plain_values() -> None:
    facts = device.describe("cpu")
    assert facts["device"] == "cpu"
    assert facts["precision"] in ("bfloat16", "float32")
    assert facts["memory_mb"] is None
    assert all(isinstance(v, (str, int, type(None))) for v in facts.values())


@pytest.mark.skipif(sys.platform != "linux", reason="the clash exists on Linux only")
def test_triton_is_bound_before_torch_and_flags_are_restored() -> None:
    code = """
import sys
import importlib.util
from dinoscope.models import device
flags = sys.getdlopenflags()
device.bind_triton()
assert sys.getdlopenflags() == flags
assert "torch" not in sys.modules
assert ("triton" in sys.modules) == (importlib.util.find_spec("triton") is not None)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    code = """if True:
        import resource
        from dinoscope.models.device import keep_freed_memory

        def faults():
            begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(5):
                some = [b"x" * (24 << 20) for _ in range(4)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

        before = faults()
        assert keep_freed_memory()
        faults()
        print(before, faults())
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_kept_memory_goes_back_when_it_is_asked_for() -> None:
    code = """if True:
        from dinoscope.models.device import give_back_memory, keep_freed_memory

        def resident_mb():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

        assert keep_freed_memory()
        some = [b"x" * (24 << 20) for _ in range(4)]
        del some
        kept = resident_mb()
        assert give_back_memory()
        print(kept - resident_mb())
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) > 80
