"""How an option is described once, for the panels and the command line alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dinoscope.errors import InputError

TASKS = ("instance", "semantic", "depth", "classification", "pca")
TRAINABLE_TASKS = ("instance", "semantic", "depth", "classification")
DEVICES = ("auto", "cpu", "cuda", "mps")
RUNTIMES = ("auto", "torch", "compile", "openvino", "onnxruntime")


@dataclass(frozen=True)
class OptionInfo:
    """What a widget or a command-line flag needs to know about an option."""

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    unit: str = ""


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    unit: str = "",
) -> Any:
    """A dataclass field that carries its own documentation and range."""
    return field(default=default, metadata={"option": OptionInfo(help, low, high, choices, unit)})


def options_of(kind: type[Any]) -> dict[str, OptionInfo]:
    """The documented options of a config class, by field name, in order."""
    return {
        f.name: f.metadata["option"] for f in dataclasses.fields(kind) if "option" in f.metadata
    }


def check(options: Any) -> None:
    """Check every value of a config object against its range or choices.

    Raises
    ------
    InputError
        Names the option, the value received and what would be right.
    """
    for name, info in options_of(type(options)).items():
        value = getattr(options, name)
        if value is None:
            continue
        if info.choices is not None and value not in info.choices:
            raise InputError(
                f"{name} is {value!r}", expected="one of " + ", ".join(map(str, info.choices))
            )
        if info.low is not None or info.high is not None:
            number = float(value)
            too_low = info.low is not None and not number >= info.low
            too_high = info.high is not None and not number <= info.high
            if too_low or too_high:
                raise InputError(
                    f"{name} is {value!r}",
                    expected=f"{info.low} to {info.high} {info.unit}".strip(),
                )
