"""Messages and the blocks beside them."""

from __future__ import annotations

import fractions
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinoscope.config import InstanceOptions, PredictOptions
from dinoscope.errors import Cancelled, InputError, OutputError, WorkerError
from dinoscope.types import Summary
from dinoscope.worker import protocol
from dinoscope.worker.protocol import Blocks, pack, remove_blocks, unpack


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return Blocks([tmp_path], "to1-")


LAYOUTS = (
    "C order",
    "Fortran order",
    "strided view",
    "read-only",
    "broadcast",
    "memory map",
    "text",
    "structured",
    "booleans",
)


def _large(tmp_path: Path) -> dict[str, np.ndarray]:
    plain = np.arange(200_000, dtype=np.uint16).reshape(400, 500)
    fixed = plain.copy()
    fixed.flags.writeable = False
    mapped = np.memmap(tmp_path / "mapped", np.uint16, "w+", shape=plain.shape)
    mapped[...] = plain
    return {
        "C order": plain,
        "Fortran order": np.asfortranarray(plain),
        "strided view": plain[::2, ::-3],
        "read-only": fixed,
        "broadcast": np.broadcast_to(plain[0], (400, 500)),
        "memory map": mapped,
        "text": np.array(["nucleus", "Zelle µm"] * 20_000),
        "structured": np.zeros(30_000, [("id", "u4"), ("x", "f8")]),
        "booleans": plain > 7,
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_array_of_any_layout_travels_outside_of_the_message(
    layout: str, blocks: Blocks, tmp_path: Path
) -> None:
    array = _large(tmp_path)[layout]
    packed = pack({"pixels": array}, blocks)
    assert len(packed.head) < 1000
    assert packed.inline == ()
    arrived = unpack(packed)["pixels"]
    assert type(arrived) is np.ndarray
    assert arrived.dtype == array.dtype
    np.testing.assert_array_equal(arrived, array)
    arrived[0] = arrived[1]  # it belongs to the receiver


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.boolean_dtypes()),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=9),
    )
)
def test_small_arrays_arrive_as_they_were(array: np.ndarray) -> None:
    nowhere = Blocks([Path("/nonexistent")], "")
    arrived = unpack(pack(array, nowhere))
    assert arrived.dtype == array.dtype
    assert arrived.shape == array.shape
    np.testing.assert_array_equal(arrived, array)


def test_a_block_is_gone_once_read(blocks: Blocks, tmp_path: Path) -> None:
    packed = pack(np.zeros(100_000), blocks)
    assert len(list(tmp_path.iterdir())) == blocks.unread() == 1
    unpack(packed)
    assert list(tmp_path.iterdir()) == []
    assert blocks.unread() == 0


def test_a_block_that_nobody_wants_can_be_discarded(blocks: Blocks, tmp_path: Path) -> None:
    packed = pack(np.zeros(100_000), blocks)
    packed.discard()
    packed.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        PredictOptions(tasks=("instance", "depth"), instance=InstanceOptions(threshold=0.3)),
        Summary("embedded", "ab", "cpu", ("pca",), 3, None, {"encode": 0.1}),
        {"key": (1, slice(0, 5, None), ...), "path": Path("a/b"), "n": np.float32(2)},
    ],
)
def test_plain_values_and_our_own_types_arrive_equal(value: Any, blocks: Blocks) -> None:
    assert unpack(pack(value, blocks)) == value


@pytest.mark.parametrize("kind", [InputError, Cancelled, WorkerError])
def test_errors_arrive_with_their_parts(kind: type[InputError], blocks: Blocks) -> None:
    arrived = unpack(pack(kind("got 7", expected="8", hint="Add one."), blocks))
    assert type(arrived) is kind
    assert (arrived.what, arrived.expected, arrived.hint) == ("got 7", "8", "Add one.")


def test_a_foreign_type_is_refused_because_receiving_it_would_import_code(blocks: Blocks) -> None:
    packed = pack({"value": fractions.Fraction(1, 3)}, blocks)
    with pytest.raises(WorkerError, match=r"contains fractions\.Fraction"):
        unpack(packed)


def test_without_room_in_memory_the_next_folder_is_used(tmp_path: Path) -> None:
    blocks = Blocks([tmp_path / "full", tmp_path], "to1-")
    packed = pack(np.ones(50_000), blocks)
    assert Path(packed.path).parent == tmp_path
    assert unpack(packed).sum() == 50_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_without_any_room_there_is_a_clear_error_and_no_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened(Path("/dev/full"), *a, **k))
    with pytest.raises(OutputError, match=r"2 MB could not be handed over.*No space left"):
        pack(np.ones(250_000), Blocks([tmp_path], "to1-"))
    assert list(tmp_path.iterdir()) == []


def test_a_lost_block_is_a_clear_error(blocks: Blocks) -> None:
    packed = pack(np.ones(50_000), blocks)
    Path(packed.path).unlink()
    with pytest.raises(WorkerError, match="could not be read"):
        unpack(packed)


def test_a_cut_block_is_a_clear_error_and_is_removed(blocks: Blocks, tmp_path: Path) -> None:
    packed = pack(np.ones(50_000), blocks)
    Path(packed.path).write_bytes(b"short")
    with pytest.raises(WorkerError, match="ends after 5 of 400000 bytes"):
        unpack(packed)
    assert list(tmp_path.iterdir()) == []


def test_only_the_blocks_of_the_dead_worker_are_removed(tmp_path: Path) -> None:
    names = ["to1-0", "from1-7", "to11-0", "from2-0", "lock"]
    for name in names:
        (tmp_path / name).touch()
    remove_blocks([tmp_path, tmp_path / "missing"], 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["from2-0", "lock", "to11-0"]


def test_a_fast_sender_waits_for_a_slow_reader(blocks: Blocks) -> None:
    sent = [pack(np.ones(50_000), blocks) for _ in range(protocol.BLOCKS_IN_FLIGHT)]
    threading.Timer(0.1, lambda: unpack(sent[2])).start()
    began = time.monotonic()
    blocks.wait_for_room(lambda: None)
    assert time.monotonic() - began > 0.05


def test_a_waiting_sender_can_be_cancelled(blocks: Blocks) -> None:
    for _ in range(protocol.BLOCKS_IN_FLIGHT):
        pack(np.ones(50_000), blocks)

    def check() -> None:
        raise Cancelled("cancelled by the user")

    with pytest.raises(Cancelled):
        blocks.wait_for_room(check)
