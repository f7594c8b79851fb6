"""The kinds of jobs that the worker knows, and what a job is given.

A job is a function of a :class:`JobContext`. It returns the data of its ``done`` event, or is a
generator that yields :class:`~dinoscope.types.Progress` and :class:`Event` and returns them. Images
given with a job read their pixels from the window's process; the one that a job works on is called
``"image"``.

=========  ===================================================  ==================================
kind       payload (defaults in brackets)                       data of ``plane`` and ``done``
=========  ===================================================  ==================================
predict    ``model``, ``options`` (PredictOptions),             plane: ``run``, ``index``,
           ``calibration`` [None] (``dark``, ``flat``: array    ``arrays``, ``objects``,
           or path), ``allow_download`` [False]                 ``classes``;
                                                                done: ``run``, ``summary``
redecode   ``run``, ``options`` (InstanceOptions),              plane: ``run``, ``index``,
           ``indices`` [all], ``first_id`` [1];                 ``arrays``, ``objects``,
           ``image`` is optional (for intensities)              ``classes``;
                                                                done: ``run``, ``next_id``
estimate   ``model``, ``options``, ``diameter_px`` [None]:      ``seconds``, ``memory_mb``,
           what an earlier run found                            ``tiles``, ``planes``,
                                                                ``at_least``, ``note``
diameter   ``model``, ``options``, ``calibration`` [None]       ``diameter_px`` (or None)
heightmap  ``step_um`` [the image's], ``channels`` [all]        plane: ``index``, ``arrays``
                                                                (``height``, ``confidence``,
                                                                ``all_in_focus``, ``mask``),
                                                                ``unit``; done: ``unit``
train      ``sources``, ``val_sources`` [none], ``options``     progress with ``values``;
           (TrainOptions), ``base``, ``output``,                done: ``output``, ``summary``
           ``new_heads`` [False], ``allow_download`` [False],   (dict)
           ``splits`` [None] (SplitOptions), ``unlabelled``
           [None]
improve    ``project``, ``model`` [the project's],              progress with ``values``;
           ``options`` [ImproveOptions()]; images by the id     done: ``round``, ``output``,
           of their source, where those have no file            ``before``, ``after``, ``better``,
                                                                ``kept``, ``tune``, ``notes``
improve_   as ``improve``, ``minutes`` [10]                     ``choice``, ``why``, ``enough``,
plan                                                            ``seconds_per_step``,
                                                                ``estimated_minutes``,
                                                                ``validation``, ``problems``
improve_   ``project``, ``paused`` [True]                       ``paused``
pause
evaluate   ``task``, ``options`` [EvaluateOptions()];            plane: ``which``, ``index``,
           images ``truth``, ``prediction``, and optionally     ``faults``; done: ``number``,
           ``other``, ``image``; or ``files`` (``truth``,       ``evaluations``, ``charts``,
           ``prediction``, ``other``, ``images``, ``models``)   ``objects``, ``comparison``
evaluate_  ``number`` of an evaluation, ``folder``              ``files``
report
models     ``files`` [none]: more model files                   ``models``, ``folder`` (of the
                                                                user's own models)
inspect    ``model``                                            ``card``
device     ``device`` ["auto"]                                  see ``models.device.describe``
forget     ``run``                                              nothing
=========  ===================================================  ==================================

The jobs of the Features panel (``tokens pca points project cluster similarity separability
explore_export explore_forget``) are described in :mod:`dinoscope.worker.exploration`, those of the
Annotate panel (``annotate_…``) in :mod:`dinoscope.worker.annotation`.

A source of ``train`` is a dict: ``task``; ``images`` and ``truths``, lists of equal length whose
items are paths or ``{"image": name}`` for an image given with the job (a truth of a classification
is the class name); optionally ``name``, ``axes``, ``groups``. Or ``task``, ``images_dir``,
``labels`` and optionally ``axes`` for folders that are paired by stem. ``unlabelled`` is a dict:
``images`` (such items) or ``images_dir``, optionally ``options`` (UnlabelledOptions), ``axes``.

``evaluate`` also takes ``scores`` and ``classes``: by ``prediction``, ``other`` (and ``truth``) a
mapping from ids; ``notes`` and ``about`` for the report. ``evaluate_models`` is the same for
``files`` with ``models``: ``prediction`` and ``other`` are then models that are run on ``images``.

``progress`` has the fields of :class:`~dinoscope.types.Progress`. ``error`` has ``error`` (a
:class:`~dinoscope.errors.DinoscopeError`) and ``traceback`` (text, for a bug report).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoscope.errors import InputError
from dinoscope.types import ImageInput, Progress
from dinoscope.worker.protocol import Event
from dinoscope.worker.runs import RunStore

Steps = Generator[Progress | Event, None, Mapping[str, Any]]


@dataclass(frozen=True)
class JobContext:
    """What a job is given.

    Parameters
    ----------
    number : int
        Unique among the jobs of a window.
    payload, images : mapping
        As given to :meth:`~dinoscope.worker.client.WorkerClient.submit`.
    tools : Tools
        What outlives the job.
    check : callable
        Raises :class:`~dinoscope.errors.Cancelled` when the user has cancelled. It is called
        between the steps of a generator; long functions call it themselves.
    report : callable
        Shows progress from inside of a step.
    """

    number: int
    payload: Mapping[str, Any]
    images: Mapping[str, ImageInput]
    tools: Tools
    check: Callable[[], None]
    report: Callable[[Progress], None]

    @property
    def image(self) -> ImageInput:
        """The image called ``"image"``.

        Raises
        ------
        InputError
            None was given.
        """
        if "image" not in self.images:
            raise InputError("no image was given", expected="an image to work on")
        return self.images["image"]


@dataclass(frozen=True)
class JobKind:
    """A function and how it is run.

    `quick` jobs run between the steps of a long one; `heavy` jobs need torch and so wait for the
    warm-up.
    """

    function: Callable[[JobContext], Steps | Mapping[str, Any]]
    quick: bool = False
    heavy: bool = True


class Tools:
    """What jobs share: threads, kept maps and loaded models.

    Parameters
    ----------
    folder : Path
        The session's folder on disk.
    threads : int
        CPU threads for jobs that do not ask for a number.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.threads = threads
        self.runs = RunStore(folder / "runs")
        #: Projects whose improvement stands still.
        self.paused: set[str] = set()
        self._models: Any = None
        self._exploration: Any = None
        self._annotation: Any = None

    @property
    def exploration(self) -> Any:
        """Encoded images and points (:class:`~dinoscope.worker.explored.Exploration`)."""
        if self._exploration is None:
            module = importlib.import_module("dinoscope.worker.explored")
            self._exploration = module.Exploration(self.folder / "tokens")
        return self._exploration

    @property
    def annotation(self) -> Any:
        """The sessions of the fast loop (:class:`~dinoscope.worker.annotated.Annotation`)."""
        if self._annotation is None:
            module = importlib.import_module("dinoscope.worker.annotated")
            self._annotation = module.Annotation(self.folder / "annotated")
        return self._annotation

    @property
    def models(self) -> Any:
        """The loaded models (:class:`~dinoscope.worker.models.ModelCache`)."""
        if self._models is None:
            self._models = importlib.import_module("dinoscope.worker.models").ModelCache()
        return self._models


def _lazy(module: str, name: str) -> Callable[[JobContext], Steps | Mapping[str, Any]]:
    """A job whose module is imported when it is first asked for."""

    def job(context: JobContext) -> Steps | Mapping[str, Any]:
        function = getattr(importlib.import_module(f"dinoscope.worker.{module}"), name)
        result: Steps | Mapping[str, Any] = function(context)
        return result

    return job


KINDS: dict[str, JobKind] = {
    "predict": JobKind(_lazy("prediction", "predict")),
    "redecode": JobKind(_lazy("prediction", "redecode"), quick=True, heavy=False),
    "estimate": JobKind(_lazy("prediction", "estimate"), quick=True),
    "diameter": JobKind(_lazy("prediction", "diameter")),
    "forget": JobKind(_lazy("prediction", "forget"), quick=True, heavy=False),
    "heightmap": JobKind(_lazy("heights", "heightmap"), heavy=False),
    "train": JobKind(_lazy("training", "train")),
    "tokens": JobKind(_lazy("exploration", "tokens")),
    "pca": JobKind(_lazy("exploration", "pca")),
    "points": JobKind(_lazy("exploration", "points")),
    "project": JobKind(_lazy("exploration", "project")),
    "cluster": JobKind(_lazy("exploration", "cluster")),
    "similarity": JobKind(_lazy("exploration", "similarity"), quick=True),
    "separability": JobKind(_lazy("exploration", "separability")),
    "explore_export": JobKind(_lazy("exploration", "export")),
    "explore_forget": JobKind(_lazy("exploration", "forget"), quick=True),
    "annotate_open": JobKind(_lazy("annotation", "open_session"), quick=True),
    "annotate_prepare": JobKind(_lazy("annotation", "prepare")),
    "annotate_strokes": JobKind(_lazy("annotation", "strokes"), quick=True),
    "annotate_preview": JobKind(_lazy("annotation", "preview"), quick=True),
    "annotate_numbers": JobKind(_lazy("annotation", "numbers"), quick=True),
    "annotate_next": JobKind(_lazy("annotation", "next_place"), quick=True),
    "annotate_objects": JobKind(_lazy("annotation", "objects"), quick=True),
    "annotate_object_classes": JobKind(_lazy("annotation", "object_classes"), quick=True),
    "annotate_apply": JobKind(_lazy("annotation", "apply")),
    "annotate_save": JobKind(_lazy("annotation", "save"), quick=True),
    "annotate_close": JobKind(_lazy("annotation", "close"), quick=True),
    "improve": JobKind(_lazy("improvement", "improve")),
    "improve_plan": JobKind(_lazy("improvement", "plan")),
    "improve_pause": JobKind(_lazy("improvement", "pause"), quick=True, heavy=False),
    "evaluate": JobKind(_lazy("evaluation", "evaluate"), heavy=False),
    "evaluate_models": JobKind(_lazy("evaluation", "evaluate")),
    "evaluate_report": JobKind(_lazy("evaluation", "report"), quick=True, heavy=False),
    "models": JobKind(_lazy("models", "models"), quick=True, heavy=False),
    "inspect": JobKind(_lazy("models", "inspect"), quick=True, heavy=False),
    "device": JobKind(_lazy("models", "device"), quick=True),
}


def load_kinds(modules: Sequence[str] = ()) -> dict[str, JobKind]:
    """The built-in kinds and those in the ``JOBS`` of `modules`.

    Parameters
    ----------
    modules : sequence of str
        Names of modules, or paths that end in ``.py``.

    Raises
    ------
    InputError
        A module has no ``JOBS``.
    """
    kinds = dict(KINDS)
    for module in modules:
        jobs = getattr(_import(module), "JOBS", None)
        if not isinstance(jobs, Mapping):
            raise InputError(f"module {module!r} has no JOBS", expected="a dict of JobKind")
        kinds.update(jobs)
    return kinds


def _import(module: str) -> Any:
    if not module.endswith(".py"):
        return importlib.import_module(module)
    path = Path(module)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"module {module!r} cannot be loaded", expected="a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded
