"""Options of improving a model on a project's annotations."""

from __future__ import annotations

from dataclasses import dataclass

from dinoscope.config.options import DEVICES, check, option
from dinoscope.config.training import parse_tune
from dinoscope.errors import InputError


@dataclass(frozen=True)
class ImproveOptions:
    """One round of improvement."""

    minutes: float = option(10.0, "Minutes of training in all.", low=0.01, high=100_000, unit="min")
    steps: int | None = option(None, "Stop after so many steps instead.", low=1, high=10_000_000)
    tune: str = option(
        "auto",
        "What is trained: auto (what this machine has time for), heads, lora-last:K (LoRA in the "
        "last K blocks), lora-all.",
    )
    rank: int = option(8, "Rank of the LoRA matrices.", low=1, high=256)
    use_unlabelled: bool = option(
        False, "Also learn from planes without annotations, where that helps on validation."
    )
    guide: bool = option(
        True, "Also learn, beside the strokes, what the fast loop says between them."
    )
    learning_rate: float = option(1e-3, "Peak learning rate.", low=1e-7, high=1)
    batch_size: int = option(8, "Crops in a step.", low=1, high=4096)
    crop_px: int = option(224, "Side of a training crop; a multiple of 14.", low=28, high=1022)
    seed: int = option(0, "Seed of everything random.", low=0, high=2**31 - 1)
    device: str = option("auto", "Where to compute.", choices=DEVICES)
    threads: int = option(0, "CPU threads; 0 = all available.", low=0, high=1024)
    token_cache_mb: float = option(
        1024.0,
        "Memory for tokens of the frozen blocks, kept between steps; 0 computes them each time.",
        low=0,
        high=1_000_000,
        unit="MB",
    )
    resume: bool = option(False, "Go on with the round that was interrupted.")

    def __post_init__(self) -> None:
        check(self)
        if self.tune != "auto" and parse_tune(self.tune)[0] == "full":
            raise InputError(
                "tune is 'full'",
                expected="auto, heads, lora-last:K or lora-all",
                hint="Few strokes do not tell enough to change every weight.",
            )
        if self.crop_px % 14:
            raise InputError(f"crop_px is {self.crop_px}", expected="a multiple of 14")
