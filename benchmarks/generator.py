"""Processes that make synthetic images all the time, and a thread that brings them to an atlas."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.atlas import Atlas, pack, torch

#: Slots of shared memory between the processes and the thread.
SLOTS = 256


def _make(kind: str, seed: int, side: int) -> Any:
    from benchmarks.train_embedded import DIAMETER_PX, SyntheticImages

    return pack(SyntheticImages(kind, surface_sides=(side,))(seed), DIAMETER_PX)


def _work(free: Any, full: Any, shared: tuple[Any, ...], jobs: tuple[Any, ...]) -> None:
    kinds, shares, side, seed = jobs
    torch.set_num_threads(1)
    colour, maps, sizes = shared
    rng = np.random.default_rng(seed)
    while True:
        slot = free.get()
        if slot is None:
            return
        number = int(rng.choice(len(kinds), p=shares))
        made = _make(kinds[number], int(rng.integers(2**31)), side)
        colour[slot] = torch.from_numpy(made.colour)
        maps[slot] = torch.from_numpy(made.maps)
        sizes[slot] = made.log_size
        full.put((slot, number))


class Generator:
    """A context manager; :meth:`feed` starts to fill an atlas and goes on replacing the oldest.

    Parameters
    ----------
    kinds, shares
        What is made, and the weight of each kind (others than synthetic kinds are left out).
    side : int
        Of the images, in pixels.
    kept : int
        Images in the atlas at a time.
    processes : int
    """

    def __init__(
        self,
        kinds: Sequence[str],
        shares: dict[str, float],
        side: int,
        kept: int,
        processes: int,
        seed: int,
    ) -> None:
        from dinoscope.datasets import synthetic

        self.kinds = [k for k in kinds if k in synthetic.KINDS]
        weight = np.array([shares[k] for k in self.kinds])
        weight = weight / weight.sum()
        self.counts = {k: max(4, int(kept * w)) for k, w in zip(self.kinds, weight, strict=True)}
        self.side = side
        self.shared = (
            torch.zeros(SLOTS, side, side, 4, dtype=torch.float16).share_memory_(),
            torch.zeros(SLOTS, side, side, 4, dtype=torch.uint8).share_memory_(),
            torch.zeros(SLOTS, dtype=torch.float64).share_memory_(),
        )
        context = multiprocessing.get_context("fork")
        self.free, self.full = context.Queue(), context.Queue()
        for slot in range(SLOTS):
            self.free.put(slot)
        self.processes = [
            context.Process(
                target=_work,
                args=(
                    self.free,
                    self.full,
                    self.shared,
                    (self.kinds, weight, side, [seed, number]),
                ),
                daemon=True,
            )
            for number in range(processes)
        ]
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None
        self.made = 0

    def __enter__(self) -> Generator:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for process in self.processes:
            process.terminate()
        if self.thread is not None:
            self.thread.join(10)

    def feed(self, atlas: Atlas, numbers: dict[str, list[int]]) -> None:
        """Reserve room and go on filling it; returns when each kind has a few images."""
        rooms = {
            k: [atlas.reserve((self.side, self.side)) for _ in range(n)]
            for k, n in self.counts.items()
        }
        for kind in self.kinds:
            numbers[kind] = []
        ready = threading.Event()
        self.thread = threading.Thread(
            target=self._run, args=(atlas, numbers, rooms, ready), daemon=True
        )
        self.thread.start()
        if not ready.wait(240):
            raise RuntimeError("no images were made within four minutes")

    def _run(self, atlas: Atlas, numbers: Any, rooms: Any, ready: threading.Event) -> None:
        turn = dict.fromkeys(self.kinds, 0)
        colour, maps, sizes = self.shared
        while not self.stopped.is_set():
            slot, which = self.full.get()
            kind = self.kinds[which]
            room = rooms[kind]
            number = room[turn[kind] % len(room)]
            size = float(sizes[slot])
            with torch.no_grad():
                # Copies: the slot is free again before the card has read it.
                atlas.put(number, colour[slot].clone(), maps[slot].clone(), size)
            self.free.put(slot)
            if turn[kind] < len(room):
                numbers[kind] = [*numbers[kind], number]
            turn[kind] += 1
            self.made += 1
            if not ready.is_set() and all(v >= 2 for v in turn.values()):
                ready.set()
