"""Controls made from the options in :mod:`dinoscope.config`, with their ranges and help."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QLineEdit, QSpinBox, QWidget

from dinoscope.config import OptionInfo, options_of
from dinoscope.errors import InputError

#: A float between bounds this close is set with a slider.
_SLIDER_SPAN = 1.0


class Control(QObject):
    """A widget that shows one option, whatever its type.

    Parameters
    ----------
    widget : QWidget
        What is laid out.
    get, set : callable
        Read and write its value.
    changes : tuple of bound signals
        What the widget emits when the user changes it.
    """

    changed = Signal()

    def __init__(
        self,
        widget: QWidget,
        get: Callable[[], Any],
        set: Callable[[Any], None],
        changes: tuple[Any, ...],
    ) -> None:
        super().__init__(widget)
        self.widget = widget
        self._get, self._set = get, set
        for signal in changes:
            signal.connect(self._on_change)

    @property
    def value(self) -> Any:
        return self._get()

    @value.setter
    def value(self, value: Any) -> None:
        self._set(value)

    def _on_change(self, *_: Any) -> None:
        self.changed.emit()


def control_for(
    kind: type, name: str, *, label: str = "", low: float | None = None, high: float | None = None
) -> Control:
    """The control for option `name` of the config class `kind`.

    Parameters
    ----------
    label : str
        Text of a tick box (other controls get theirs from the form they stand in).
    low, high : float, optional
        A narrower range than the option's own, for use by hand.

    Raises
    ------
    TypeError
        No control fits the option's type.
    """
    info = options_of(kind)[name]
    field = next(f for f in dataclasses.fields(kind) if f.name == name)
    hint = typing.get_type_hints(kind)[name]
    optional = _is_optional(hint)
    base = _without_none(hint)
    bounds = _bounds(info, low, high)
    if info.choices is not None:
        control = _combo(info.choices)
    elif base is bool:
        control = _tick(label)
    elif base is int and not optional:
        control = _integer(bounds, info.unit)
    elif base is float and not optional and bounds[1] - bounds[0] <= _SLIDER_SPAN:
        control = _slider(bounds)
    elif base in (int, float):
        control = _number(bounds, info.unit, optional)
    elif typing.get_origin(base) is tuple:
        control = _numbers(typing.get_args(base)[0])
    elif base is str:
        control = _text()
    else:
        raise TypeError(f"no control for {kind.__name__}.{name}: {hint}")
    control.widget.setToolTip(info.help)
    if field.default is not dataclasses.MISSING:
        control.value = field.default
    return control


def values_of(controls: Mapping[str, Control]) -> dict[str, Any]:
    """The values of several controls by name."""
    return {name: control.value for name, control in controls.items()}


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        left = [a for a in typing.get_args(hint) if a is not type(None)]
        return left[0] if len(left) == 1 else hint
    return hint


def _bounds(info: OptionInfo, low: float | None, high: float | None) -> tuple[float, float]:
    bounds = (
        info.low if low is None else low,
        info.high if high is None else high,
    )
    return (0.0 if bounds[0] is None else bounds[0], 1e6 if bounds[1] is None else bounds[1])


def _combo(choices: tuple[str, ...]) -> Control:
    widget = QComboBox()
    widget.addItems(list(choices))
    return Control(widget, widget.currentText, widget.setCurrentText, (widget.currentTextChanged,))


def _tick(label: str) -> Control:
    widget = QCheckBox(label)
    return Control(widget, widget.isChecked, widget.setChecked, (widget.toggled,))


def _integer(bounds: tuple[float, float], unit: str) -> Control:
    widget = QSpinBox()
    widget.setRange(int(bounds[0]), int(min(bounds[1], 2**31 - 1)))
    widget.setKeyboardTracking(False)
    if unit:
        widget.setSuffix(f" {unit}")
    widget.setStepType(QSpinBox.StepType.AdaptiveDecimalStepType)
    return Control(widget, widget.value, lambda v: widget.setValue(int(v)), (widget.valueChanged,))


def _number(bounds: tuple[float, float], unit: str, optional: bool) -> Control:
    """A number field; where the option may be absent its lowest position reads ``auto``."""
    widget = QDoubleSpinBox()
    widget.setKeyboardTracking(False)
    widget.setDecimals(4 if bounds[0] < 0.01 else 2 if bounds[0] < 1 else 1)
    widget.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
    if unit:
        widget.setSuffix(f" {unit}")
    if not optional:
        widget.setRange(*bounds)
        return Control(widget, widget.value, widget.setValue, (widget.valueChanged,))
    widget.setRange(0.0, bounds[1])
    widget.setSpecialValueText("auto")

    def get() -> float | None:
        value = widget.value()
        return None if value == 0 else max(value, bounds[0])

    return Control(
        widget, get, lambda v: widget.setValue(0.0 if v is None else v), (widget.valueChanged,)
    )


def _slider(bounds: tuple[float, float]) -> Control:
    from superqt import QLabeledDoubleSlider

    widget = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
    widget.setRange(*bounds)
    widget.setDecimals(2)
    widget.setSingleStep(0.01)
    return Control(
        widget, lambda: round(float(widget.value()), 3), widget.setValue, (widget.valueChanged,)
    )


def _numbers(kind: type) -> Control:
    """A list of numbers, typed with commas; empty means "all" (``None``)."""
    widget = QLineEdit()
    widget.setPlaceholderText("all")

    def get() -> tuple[Any, ...] | None:
        parts = widget.text().replace(";", ",").replace(",", " ").split()
        try:
            return tuple(kind(p) for p in parts) or None
        except ValueError as error:
            raise InputError(
                f"{widget.text()!r} is no list of numbers",
                expected="numbers with commas between them, for example 0, 2",
            ) from error

    def put(value: Any) -> None:
        widget.setText(", ".join(map(str, value or ())))

    return Control(widget, get, put, (widget.editingFinished,))


def _text() -> Control:
    widget = QLineEdit()
    return Control(widget, widget.text, widget.setText, (widget.editingFinished,))
