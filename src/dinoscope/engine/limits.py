"""When memory does not suffice: smaller batches, then smaller tiles; and cards that vanish."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dinoscope.errors import DeviceError, DinoscopeError

#: Tiles are not made smaller than this, in pixels.
LEAST_TILE_PX = 224

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
_LOST = ("cuda error", "cuda driver", "device-side", "no cuda gpus", "hip error", "mps backend")


class TileTooLarge(Exception):
    """One tile alone needs more memory than there is."""


@dataclass
class Limits:
    """What has been learnt about memory in this run."""

    batch: int | None = None
    halvings: int = 0

    def smaller_batch(self, size: int) -> None:
        """A batch of `size` tiles was too much.

        Raises
        ------
        TileTooLarge
            It was a single tile.
        """
        if size <= 1:
            raise TileTooLarge
        self.batch = size // 2

    def smaller_tiles(self, tile_max: int) -> None:
        """A single tile was too much.

        Raises
        ------
        DeviceError
            It cannot be made smaller.
        """
        if tile_max >> (self.halvings + 1) < LEAST_TILE_PX:
            raise DeviceError(
                f"there is not enough memory for a tile of {tile_max >> self.halvings} px",
                hint="Close other programs, choose a smaller model, or compute on the CPU.",
            )
        self.halvings += 1

    def tile_range(self, low: int, high: int) -> tuple[int, int]:
        """The card's range of tile sides, halved as often as was needed."""
        return low >> self.halvings, high >> self.halvings


def is_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of the machine or of the card."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return not isinstance(error, DinoscopeError) and any(words in text for words in _MEMORY)


def lost_device(error: BaseException, device: str) -> DeviceError | None:
    """What to tell the user where `error` says that the card is gone; else ``None``."""
    text = str(error).lower()
    if device == "cpu" or not any(words in text for words in _LOST):
        return None
    first = str(error).strip().splitlines()[0][:160]
    return DeviceError(
        f"the device {device!r} stopped working in the middle of the run ({first})",
        hint="Run again with device cpu; a driver that was updated or a card that went to sleep "
        "needs a restart of the program.",
    )


def release(device: str) -> None:
    """Give cached memory of the card back."""
    if device == "cuda":
        torch.cuda.empty_cache()
