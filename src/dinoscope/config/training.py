"""Options of training: what is tuned and how, splits, images without labels, the search."""

from __future__ import annotations

from dataclasses import dataclass

from dinoscope.config.options import DEVICES, TASKS, check, option
from dinoscope.errors import InputError


@dataclass(frozen=True)
class TrainOptions:
    """One training run."""

    tune: str = option(
        "lora-last:4",
        "What is trained: heads, lora-last:K (LoRA in the last K blocks), lora-all, full.",
    )
    lora_on: str = option(
        "backbone", "Where LoRA layers go.", choices=("backbone", "heads", "both")
    )
    lora_rank: int = option(8, "Rank of the LoRA matrices.", low=1, high=256)
    lora_alpha: float = option(
        8.0, "LoRA scaling numerator (rank-stabilised).", low=0.01, high=1024
    )
    minutes: float | None = option(
        None, "Stop after this many minutes.", low=0.01, high=100_000, unit="min"
    )
    epochs: int | None = option(None, "Passes over the training images.", low=1, high=100_000)
    batch_size: int = option(8, "Crops in a step.", low=1, high=4096)
    learning_rate: float = option(1e-3, "Peak learning rate of heads and LoRA.", low=1e-7, high=1)
    weight_decay: float = option(0.05, "AdamW weight decay.", low=0, high=1)
    crop_px: int = option(224, "Side of a training crop; a multiple of 14.", low=28, high=1022)
    val_fraction: float = option(
        0.2, "Share of images kept for validation when none are given.", low=0.0, high=0.9
    )
    balance: str = option(
        "equal",
        "How the losses of several tasks are balanced: equal (over their initial values), fixed "
        "(--loss-weights), uncertainty (learned variances), gradnorm (equal gradients).",
        choices=("equal", "fixed", "uncertainty", "gradnorm"),
    )
    loss_weights: tuple[str, ...] = option(
        (), "Weights for a fixed balance, as task=weight; 1 for tasks that are not named."
    )
    schedule: str = option(
        "cosine",
        "How the learning rate runs: cosine (short warm-up, then down) or onecycle.",
        choices=("cosine", "onecycle"),
    )
    patience: int = option(
        0, "Stop after this many validations without a better score; 0 = never.", low=0, high=10_000
    )
    label_smoothing: float = option(
        0.05, "Share of a class that is spread over all (classification).", low=0.0, high=0.9
    )
    class_weights: str = option(
        "none",
        "Weigh classes alike (none), or rare ones more (balanced: one over their number).",
        choices=("none", "balanced"),
    )
    depth_loss: str = option(
        "sig",
        "Loss of depth: sig (scale-invariant, with gradients) or mse (mean squared error).",
        choices=("sig", "mse"),
    )
    lora_dropout: float = option(0.0, "Dropout before LoRA layers.", low=0.0, high=0.9)
    lora_targets: tuple[str, ...] = option(
        ("qkv", "proj", "fc1", "fc2"), "Layers of a block that get LoRA matrices."
    )
    token_cache_mb: float = option(
        1024.0,
        "Memory for tokens of the frozen blocks, kept between steps; 0 computes them each time.",
        low=0,
        high=1_000_000,
        unit="MB",
    )
    blend: bool = option(
        True,
        "Keep only as much of what training changed as held-out images (where they are few, all "
        "images) ask for, if the base knew the tasks before.",
    )
    diameter_px: float | None = option(
        None,
        "Typical object diameter of the training images; measured when not given.",
        low=2,
        high=5000,
    )
    seed: int = option(0, "Seed of everything random.", low=0, high=2**31 - 1)
    device: str = option("auto", "Where to compute.", choices=DEVICES)
    threads: int = option(0, "CPU threads; 0 = all available.", low=0, high=1024)
    include_backbone: bool = option(
        False, "Store the backbone in the model file, so that it works where the backbone is not."
    )
    resume: bool = option(False, "Go on from the last checkpoint of the same output.")

    def __post_init__(self) -> None:
        check(self)
        kind, _ = parse_tune(self.tune)
        parse_weights(self.loss_weights)
        if self.balance == "gradnorm" and (kind == "heads" or self.lora_on == "heads"):
            raise InputError(
                "balance is 'gradnorm' and only heads are trained: it compares the gradients that "
                "tasks send into shared parameters of the backbone, and there are none",
                expected="another balance, or LoRA in the backbone",
            )
        if self.crop_px % 14:
            raise InputError(f"crop_px is {self.crop_px}", expected="a multiple of 14")
        if self.minutes is None and self.epochs is None:
            object.__setattr__(self, "minutes", 10.0)


def parse_weights(texts: tuple[str, ...]) -> dict[str, float]:
    """Read ``("instance=1", "depth=0.3")``.

    Raises
    ------
    InputError
        An unknown task, or no positive number.

    Examples
    --------
    >>> parse_weights(("instance=1", "depth=0.3"))
    {'instance': 1.0, 'depth': 0.3}
    """
    weights = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = -1.0
        if name not in TASKS or not 0 < weights[name] < 1e9:
            raise InputError(f"loss weight is {text!r}", expected="for example instance=1")
    return weights


def parse_tune(text: str) -> tuple[str, int | None]:
    """Split ``heads``, ``lora-last:4``, ``lora-all`` or ``full`` into kind and number of blocks.

    Raises
    ------
    InputError
        Any other text.

    Examples
    --------
    >>> parse_tune("lora-last:4")
    ('lora-last', 4)
    """
    kind, _, count = text.partition(":")
    if kind == "lora-last" and count.isdigit() and int(count) > 0:
        return kind, int(count)
    if kind in ("heads", "lora-all", "full") and not count:
        return kind, None
    raise InputError(f"tune is {text!r}", expected="heads, lora-last:K, lora-all or full")


@dataclass(frozen=True)
class SplitOptions:
    """Which images are kept apart from training, and what must stay together."""

    group_by: str = option(
        "image",
        "What must not stand on both sides of a split: image (a file, with all its planes), stack "
        "(files that differ in a plane, time or channel number only), well (as B03 in the name), "
        "or a regular expression whose groups name it.",
    )
    test_fraction: float = option(
        0.0,
        "Share of the images that is read only for the final report.",
        low=0.0,
        high=0.9,
    )
    folds: int = option(
        0,
        "Cross-validate in this many folds, then train on everything; 0 = do not.",
        low=0,
        high=20,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.folds == 1:
            raise InputError("folds is 1", expected="0, or 2 and more")


@dataclass(frozen=True)
class UnlabelledOptions:
    """What is learned from images without labels."""

    method: str = option(
        "none",
        "How images without labels are used: consistency (an averaged teacher's confident maps), "
        "distill (tokens of masked crops).",
        choices=("none", "consistency", "distill"),
    )
    weight: float = option(1.0, "Weight of what is learned without labels.", low=0.0, high=100)
    threshold: float = option(
        0.9, "Confidence from which the teacher's answer counts.", low=0.5, high=0.999
    )
    ramp_up: float = option(
        0.3, "Share of the training over which that weight rises from 0.", low=0.0, high=1.0
    )
    teacher_decay: float = option(
        0.99, "How much of the teacher is kept in a step.", low=0.0, high=0.9999
    )
    crops: int = option(4, "Crops without labels in a step.", low=1, high=1024)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SearchOptions:
    """Which settings are tried, and for how long each."""

    learning_rates: tuple[float, ...] = option((3e-4, 1e-3, 3e-3), "Learning rates to try.")
    ranks: tuple[int, ...] = option((4, 16), "Ranks of the LoRA matrices to try.")
    tunes: tuple[str, ...] = option(
        ("lora-last:4", "lora-all"), "What to tune, in the words of --tune."
    )
    trials: int | None = option(
        None, "Try only so many of the combinations, drawn at random.", low=1, high=10_000
    )
    minutes_each: float = option(
        2.0, "Minutes of a first trial.", low=0.01, high=100_000, unit="min"
    )
    epochs_each: int | None = option(
        None, "Passes over the images in a first trial, instead of minutes.", low=1, high=100_000
    )
    halving: bool = option(
        True,
        "Train the best third again, three times as long, until three or fewer are left.",
    )

    def __post_init__(self) -> None:
        check(self)
        for rate in self.learning_rates:
            if not 1e-7 <= rate <= 1:
                raise InputError(f"learning rate {rate!r} is to be tried", expected="1e-07 to 1")
        for rank in self.ranks:
            if not 1 <= rank <= 256:
                raise InputError(f"LoRA rank {rank!r} is to be tried", expected="1 to 256")
        for tune in self.tunes:
            parse_tune(tune)
        if not (self.learning_rates and self.ranks and self.tunes):
            raise InputError("there is nothing to try", expected="one value of each at least")
