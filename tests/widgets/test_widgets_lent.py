"""A classifier in the Predict panel, for which another model finds the objects."""

from __future__ import annotations

from typing import Any

from dinoscope.widgets._choices import TaskPicker
from dinoscope.widgets._models import _about, possible_tasks

REDCELLS: dict[str, Any] = {
    "name": "embedded-redcells",
    "tasks": ("classification",),
    "lent_tasks": ("instance", "semantic", "depth"),
    "backbone": "embedded",
}


def test_what_another_model_does_is_offered_and_said() -> None:
    assert possible_tasks(REDCELLS) == {"classification", "instance", "semantic", "depth", "pca"}
    assert possible_tasks({"tasks": ("instance",)}) == {"instance", "pca"}
    told = _about(REDCELLS)
    assert told == "Does classification, pca; with embedded: instance, semantic, depth."


def test_who_chooses_a_classifier_gets_classes_of_objects(qtbot: Any) -> None:
    picker = TaskPicker()
    qtbot.addWidget(picker)
    picker.offer("embedded", ("instance", "semantic", "depth", "pca"), {})
    assert picker.tasks == ("instance",)
    picker.offer("red cells", sorted(possible_tasks(REDCELLS)), {}, ("classification",))
    assert set(picker.tasks) == {"instance", "classification"}
    picker.boxes["instance"].setChecked(False)
    assert picker.tasks == ("classification",)
    picker.offer("embedded", ("instance", "semantic", "depth", "pca"), {})
    assert "classification" not in picker.tasks
